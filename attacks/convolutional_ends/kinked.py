"""Activations of slope 1 between two kinks, channel by channel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Kinked:
    """φ(z) = z on (0, top), slope · z below, constant above: ReLU, ReLU6, leaky and PReLU.

    A channel is active where the slope is 1. Tensors have shape (m, …), one row for each channel.

    Attributes:
        slope: below 0, shape (m,).
        top: of the active channels' z; infinite for all but ReLU6.
    """

    slope: Tensor
    top: float

    def value(self, z: Tensor) -> Tensor:
        """Return φ(z), shape (m, …)."""
        return self._by_channel(z) * z.clamp_max(0) + z.clamp(0, self.top)

    def active(self, z: Tensor) -> Tensor:
        """Return where the slope is 1, shape (m, …)."""
        return (z > 0) & (z < self.top)

    def derivative(self, active: Tensor) -> Tensor:
        """Return the slopes for masks of active channels, shape (m, …).

        Above the top it is 0, and so must the slope be where there is one.
        """
        return torch.where(active, 1.0, self._by_channel(active))

    def nearest(self, z: Tensor, active: bool) -> Tensor:
        """Return the nearest z of channels that are active, or not, same shape."""
        if active:
            return z.clamp(0, self.top)
        return torch.where(z > self.top / 2, z.clamp_min(self.top), z.clamp_max(0))

    def from_kinks(self, z: Tensor) -> Tensor:
        """Return the distance from the nearest kink, same shape."""
        return torch.minimum(z.abs(), (z - self.top).abs())

    def scaled(self, factor: float) -> Kinked:
        """Return the activation for z in units of 1 / factor."""
        return Kinked(self.slope, self.top * factor)

    def to(self, like: Tensor) -> Kinked:
        """Return it in the type and on the device of a tensor."""
        return Kinked(self.slope.to(like), self.top)

    def _by_channel(self, like: Tensor) -> Tensor:
        return self.slope.reshape(-1, *[1] * (like.ndim - 1))


def kinked_activation(module: nn.Module, channels: int) -> Kinked | None:
    """Return what a module computes; None if it is of another kind."""
    zeros = torch.zeros(channels, dtype=torch.float64)
    if isinstance(module, nn.ReLU):
        return Kinked(zeros, torch.inf)
    if isinstance(module, nn.ReLU6):
        return Kinked(zeros, 6.0)
    if isinstance(module, nn.LeakyReLU):
        slope = zeros + module.negative_slope
    elif isinstance(module, nn.PReLU):
        slope = zeros + module.weight.detach().double().cpu()
    else:
        return None
    # A channel of slope 1 has no kink, and tells nothing.
    return Kinked(slope, torch.inf) if bool((slope < 1).all()) else None
