"""A classifier with one hidden ReLU layer: what the server knows of it, and its gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.errors import UsageError
from bench.models import SharedModel


@dataclass(frozen=True)
class HiddenLayer:
    """f_c(h) = W_o · ReLU(W h + b) + b_o, in double precision where there is such.

    Attributes:
        names: of the four parameters below in an update.
        weight: W, shape (m, d).
        bias: b, shape (m,).
        output_weight: W_o, shape (K, m).
        output_bias: b_o, shape (K,).
    """

    names: tuple[str, str, str, str]
    weight: Tensor
    bias: Tensor
    output_weight: Tensor
    output_bias: Tensor

    def gradient(self, update: Mapping[str, Tensor]) -> Tensor:
        """Return the gradient of [W, b], shape (m, d + 1), in double precision."""
        return self._joined(update, *self.names[:2])

    def output_gradient(self, update: Mapping[str, Tensor]) -> Tensor:
        """Return the gradient of [W_o, b_o], shape (K, m + 1), in double precision."""
        return self._joined(update, *self.names[2:])

    def _joined(self, update: Mapping[str, Tensor], weight: str, bias: str) -> Tensor:
        both = torch.cat([update[weight], update[bias][:, None]], dim=1)
        return both.to(self.weight.device).double()

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return what individuals' features (n, d) make of it.

        Returns:
            Pre-activations W h + b, shape (n, m), and class probabilities, shape (n, K).
        """
        before = functional.linear(features, self.weight, self.bias)
        logits = functional.linear(before.relu(), self.output_weight, self.output_bias)
        return before, logits.softmax(1)


def hidden_layer_of(model: SharedModel, attack: str) -> HiddenLayer:
    """Return the hidden layer of a shared model.

    Raises:
        UsageError: the classifier is not a hidden ReLU layer and an output layer, with biases.
    """
    layers = [layer for layer in model.classifier.modules() if not list(layer.children())]
    linear = [layer for layer in layers if isinstance(layer, nn.Linear)]
    of_names = {id(parameter): name for name, parameter in model.named_parameters()}
    kinds = [type(layer) for layer in layers]
    if kinds != [nn.Linear, nn.ReLU, nn.Linear] or any(layer.bias is None for layer in linear):
        raise UsageError(
            f"attack {attack!r} needs a classifier of one hidden ReLU layer and an output layer, "
            f"but this one has {', '.join(kind.__name__ for kind in kinds)}; take model=small_cnn "
            f"with split=convolutions"
        )
    parameters = [parameter for layer in linear for parameter in (layer.weight, layer.bias)]
    first, second, third, fourth = (of_names[id(parameter)] for parameter in parameters)
    # Apple's GPUs have no double precision.
    device = "cpu" if parameters[0].device.type == "mps" else parameters[0].device
    known = (parameter.detach().to(device).double() for parameter in parameters)
    return HiddenLayer((first, second, third, fourth), *known)
