"""Layers of torchvision's networks as attacks and exact tests need them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, TypeVar

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.dropout import _DropoutNd

Model = TypeVar("Model", bound=nn.Module)


def hard_sigmoid(inputs: Tensor) -> Tensor:
    """Return the piecewise linear sigmoid, same shape; PyTorch's own has no second derivative."""
    return functional.relu6(inputs + 3) / 6


class HardSigmoid(nn.Module):
    """The layer of `hard_sigmoid`."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return numbers in [0, 1], same shape."""
        return hard_sigmoid(inputs)


def plain(network: Model) -> Model:
    """Return the network, changed in place: no activation in place, and no dropout.

    Attacks differentiate twice, which in-place activations do not allow, and dropout would make an
    update depend on random numbers that no server knows.
    """
    for module in network.modules():
        for name, layer in module.named_children():
            if isinstance(layer, nn.Hardsigmoid):
                setattr(module, name, HardSigmoid())
        if isinstance(getattr(module, "inplace", None), bool):
            module.inplace = False  # type: ignore[assignment]
        if isinstance(module, _DropoutNd):
            module.p = 0.0
    return network


def initialise_convolutions(network: nn.Module) -> None:
    """Initialise kernels by He's rule for what a unit receives, biases with 0.

    torchvision's rule for mobile networks, by what a unit sends, counts all channels of a depthwise
    convolution, of which each unit receives one. BatchNorm repairs that in training; in evaluation
    mode at round 0 it does not, and logits vanish. Projections, which no activation follows, keep
    the variance of what they receive.
    """
    projections = {id(each) for each in _projections(network)}
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            rule: Literal["linear", "relu"] = "linear" if id(module) in projections else "relu"
            nn.init.kaiming_normal_(module.weight, nonlinearity=rule)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _projections(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the convolutions that end a sequence, perhaps with BatchNorm after them."""
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            layers = [each for each in module if not isinstance(each, nn.BatchNorm2d)]
            if layers and isinstance(layers[-1], nn.Conv2d):
                yield layers[-1]
