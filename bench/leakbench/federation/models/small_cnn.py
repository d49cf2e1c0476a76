"""The small convolutional network of UL, with one hidden layer."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field
from torch import nn

from leakbench.base.registry import register_model
from leakbench.federation.shared_model import Architecture, Normalise, SharedModel


@register_model("small_cnn")
@dataclass(frozen=True, kw_only=True)
class SmallCNN(Architecture):
    """The CNN of UL: three 3×3 convolutions with pooling, a hidden layer, an output layer.

    With split `convolutions`, E(X) is the input of the hidden layer; with split `hidden`, its
    activations. UL uses max pooling. The default here is average pooling: matching the gradient of
    a max-pooled network hardly converges, so that gradient-matching attacks cannot be compared.

    Attributes:
        width: channels of the first convolution, doubled in each of the next two; 32 in UL.
        hidden: units of the hidden layer.
        pooling: `average` or `max`.
        batch_norm: whether a BatchNorm layer follows each convolution; not in UL.
    """

    reference = (
        "Melis, Song, De Cristofaro, Shmatikov 2019, Exploiting Unintended Feature Leakage in "
        "Collaborative Learning (IEEE S&P)"
    )
    splits = ("convolutions", "hidden")

    width: Annotated[int, Field(gt=0)] = 32
    hidden: Annotated[int, Field(gt=0)] = 256
    pooling: Literal["average", "max"] = "average"
    batch_norm: bool = False

    def build(self, classes: int, size: int, split: str) -> SharedModel:
        """Return the CNN; d = 4 · width · (size / 8)² before the hidden layer."""
        channels = [3, self.width, 2 * self.width, 4 * self.width]
        layers: list[nn.Module] = [Normalise()]
        for inputs, outputs in pairwise(channels):
            pool = nn.AvgPool2d(2) if self.pooling == "average" else nn.MaxPool2d(2)
            normalise = [nn.BatchNorm2d(outputs)] if self.batch_norm else []
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), *normalise, nn.ReLU(), pool]
        layers.append(nn.Flatten())
        hidden = self._hidden(channels[-1] * (size // 8) ** 2)
        output = nn.Linear(self.hidden, classes)
        for layer in (*layers, *hidden):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                # He initialisation: with PyTorch's default, plain SGD needs thousands of rounds.
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.constant_(layer.bias, 0.0)  # type: ignore[arg-type]
        if split == "hidden":
            return SharedModel(nn.Sequential(*layers, *hidden), nn.Sequential(output))
        return SharedModel(nn.Sequential(*layers), nn.Sequential(*hidden, output))

    def _hidden(self, features: int) -> list[nn.Module]:
        """Return the layers between the convolutions, with `features` outputs, and the output."""
        return [nn.Linear(features, self.hidden), nn.ReLU()]
