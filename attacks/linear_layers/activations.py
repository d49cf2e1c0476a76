"""Activations, element by element, with the derivatives that Newton's method needs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Activation(ABC):
    """φ(z). Where it has a kink, `sharpness` β asks for a softened one; β → ∞ is φ itself.

    All take z of any shape and return the same shape; β broadcasts.
    """

    @abstractmethod
    def value(self, z: Tensor, sharpness: Tensor | None = None) -> Tensor:
        """Return φ(z)."""

    @abstractmethod
    def value_derivative(self, z: Tensor, sharpness: Tensor | None) -> Tensor:
        """Return the derivative of `value`."""

    @abstractmethod
    def derivative(self, z: Tensor, sharpness: Tensor | None = None) -> Tensor:
        """Return φ'(z), by which backpropagation multiplies errors."""

    @abstractmethod
    def second_derivative(self, z: Tensor, sharpness: Tensor | None) -> Tensor:
        """Return the derivative of `derivative`."""


@dataclass(frozen=True)
class Rectifier(Activation):
    """z where z > 0, else slope · z: ReLU and leaky ReLU.

    Softened, the derivative is slope + (1 − slope) σ(βz) in place of slope or 1, and the value is z
    times that.

    Attributes:
        slope: of the negative side, below 1.
    """

    slope: float = 0.0

    def value(self, z: Tensor, sharpness: Tensor | None = None) -> Tensor:
        """Return φ(z)."""
        return z * self.derivative(z, sharpness)

    def value_derivative(self, z: Tensor, sharpness: Tensor | None) -> Tensor:
        """Return the derivative of `value`."""
        return self.derivative(z, sharpness) + z * self.second_derivative(z, sharpness)

    def derivative(self, z: Tensor, sharpness: Tensor | None = None) -> Tensor:
        """Return the slope at z."""
        on = (z > 0).to(z.dtype) if sharpness is None else (sharpness * z).sigmoid()
        return self.slope + (1 - self.slope) * on

    def second_derivative(self, z: Tensor, sharpness: Tensor | None) -> Tensor:
        """Return the derivative of `derivative`."""
        if sharpness is None:
            return torch.zeros_like(z)
        on = (sharpness * z).sigmoid()
        return (1 - self.slope) * sharpness * on * (1 - on)


@dataclass(frozen=True)
class Smooth(Activation):
    """An activation without a kink at 0, of which nothing is softened.

    Attributes:
        function: φ, element by element, differentiable twice.
    """

    function: Callable[[Tensor], Tensor]

    def value(self, z: Tensor, sharpness: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return φ(z)."""
        return self.function(z)

    def value_derivative(self, z: Tensor, sharpness: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return φ'(z)."""
        return self.derivative(z)

    def derivative(self, z: Tensor, sharpness: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """Return φ'(z)."""
        return _derivative(self.function)(z)

    def second_derivative(self, z: Tensor, sharpness: Tensor | None) -> Tensor:  # noqa: ARG002
        """Return φ''(z)."""
        return _derivative(_derivative(self.function))(z)


def activation_of(module: nn.Module) -> Activation | None:
    """Return what a module computes; None if it is no known activation."""
    if isinstance(module, nn.ReLU):
        return Rectifier()
    if isinstance(module, nn.LeakyReLU) and module.negative_slope < 1:
        return Rectifier(module.negative_slope)
    kinked = isinstance(module, nn.ELU) and module.alpha != 1
    if kinked or not isinstance(module, SMOOTH):
        return None
    function = copy(module)
    if hasattr(function, "inplace"):
        function.inplace = False
    return Smooth(function)


def _derivative(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the derivative of a function that acts element by element."""

    def derivative(z: Tensor) -> Tensor:
        with torch.enable_grad():
            at = z if z.requires_grad else z.detach().requires_grad_()
            (of,) = torch.autograd.grad(function(at).sum(), at, create_graph=True)
        return of if z.requires_grad else of.detach()

    return derivative


SMOOTH = (nn.GELU, nn.SiLU, nn.Mish, nn.Tanh, nn.Sigmoid, nn.Softplus, nn.ELU, nn.Hardswish)
"""Modules that act element by element and have a continuous derivative; that of Hardswish jumps by
½ at −3 and 3, where hardly any unit is."""
