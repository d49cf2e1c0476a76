"""UL's small convolutional network with several hidden layers and a choice of activation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from leakbench.base.registry import register_model
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import ACTIVATIONS


@register_model("small_cnn_mlp")
@dataclass(frozen=True, kw_only=True)
class SmallCNNWithMLP(SmallCNN):
    """The CNN of UL with a choice of hidden layers between the convolutions and the output layer.

    Attributes:
        hidden_layers: number of hidden layers, of `hidden` units each.
        activation: after each hidden layer; the convolutions keep ReLU.
    """

    hidden_layers: Annotated[int, Field(gt=0)] = 2
    activation: Literal["relu", "leaky_relu", "gelu", "silu", "tanh"] = "relu"

    def _hidden(self, features: int) -> list[nn.Module]:
        """Return the hidden layers with their activations."""
        layers: list[nn.Module] = []
        for inputs in [features, *[self.hidden] * (self.hidden_layers - 1)]:
            layers += [nn.Linear(inputs, self.hidden), ACTIVATIONS[self.activation]()]
        return layers
