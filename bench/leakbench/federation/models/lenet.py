"""LeNet with sigmoid activations, as in DLG."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from leakbench.base.registry import register_model
from leakbench.federation.shared_model import Architecture, SharedModel


@register_model("lenet")
@dataclass(frozen=True, kw_only=True)
class LeNet(Architecture):
    """The sigmoid LeNet of DLG: three 5×5 convolutions of 12 channels and one linear layer.

    It takes pixels in [0, 1], as in the paper: with pixels in [-1, 1], L-BFGS rarely converges.

    Attributes:
        spread: weights and biases are initialised uniformly in [−spread, spread].
    """

    reference = "Zhu, Liu, Han 2019, Deep Leakage from Gradients (NeurIPS)"

    spread: float = 0.5

    def build(self, classes: int, size: int, split: str) -> SharedModel:  # noqa: ARG002
        """Return LeNet; d = 12 · (size / 4)²."""
        layers: list[nn.Module] = []
        for inputs, stride in ((3, 2), (12, 2), (12, 1)):
            layers += [nn.Conv2d(inputs, 12, 5, stride=stride, padding=2), nn.Sigmoid()]
        output = nn.Linear(12 * (size // 4) ** 2, classes)
        model = SharedModel(nn.Sequential(*layers, nn.Flatten()), nn.Sequential(output))
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -self.spread, self.spread)
        return model
