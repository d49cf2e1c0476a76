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
        top: of the active channels' z, shape (m,); infinite for all but ReLU6.
    """

    slope: Tensor
    top: Tensor

    def value(self, z: Tensor) -> Tensor:
        """Return φ(z), shape (m, …)."""
        return self._slopes(z) * z.clamp_max(0) + self._below_top(z)

    def active(self, z: Tensor) -> Tensor:
        """Return where the slope is 1, shape (m, …)."""
        return (z > 0) & (z < _by_channel(self.top, z))

    def derivative(self, active: Tensor) -> Tensor:
        """Return the slopes for masks of active channels, shape (m, …).

        Above the top it is 0, and so must the slope be where there is one.
        """
        return torch.where(active, 1.0, self._slopes(active))

    def nearest(self, z: Tensor, active: bool) -> Tensor:
        """Return the nearest z of channels that are active, or not, same shape."""
        if active:
            return self._below_top(z)
        top = _by_channel(self.top, z)
        return torch.where(z > top / 2, torch.maximum(z, top), z.clamp_max(0))

    def nearer(self, x: Tensor, direction: Tensor, than: Tensor | float = 0.0) -> Tensor:
        """Return where x is nearer to a direction than to slope times it, shape (m, …).

        Args:
            x, direction: shape (m, …).
            than: by how much squares of distances must differ, shape (m, …).
        """
        slope = self._slopes(x)
        # (x − slope d)² − (x − d)²
        return (1 - slope) * direction * (2 * x - (1 + slope) * direction) > than

    def from_kinks(self, z: Tensor) -> Tensor:
        """Return the distance from the nearest kink, same shape."""
        return torch.minimum(z.abs(), (z - _by_channel(self.top, z)).abs())

    def scaled(self, factor: Tensor) -> Kinked:
        """Return the activation for z that is multiplied by factors, shape (m,)."""
        return Kinked(self.slope, self.top * factor)

    def to(self, like: Tensor) -> Kinked:
        """Return it in the type and on the device of a tensor."""
        return Kinked(self.slope.to(like), self.top.to(like))

    def _slopes(self, like: Tensor) -> Tensor:
        return _by_channel(self.slope, like)

    def _below_top(self, z: Tensor) -> Tensor:
        return torch.minimum(z.clamp_min(0), _by_channel(self.top, z))


def kinked_activation(module: nn.Module, channels: int) -> Kinked | None:
    """Return what a module computes; None if it is of another kind."""
    zeros = torch.zeros(channels, dtype=torch.float64)
    if isinstance(module, nn.ReLU):
        return Kinked(zeros, zeros + torch.inf)
    if isinstance(module, nn.ReLU6):
        return Kinked(zeros, zeros + 6.0)
    if isinstance(module, nn.LeakyReLU):
        slope = zeros + module.negative_slope
    elif isinstance(module, nn.PReLU):
        slope = zeros + module.weight.detach().double().cpu()
    else:
        return None
    return Kinked(slope, zeros + torch.inf) if bool((slope != 1).all()) else None


def _by_channel(numbers: Tensor, like: Tensor) -> Tensor:
    """Return one number for each row of a tensor (m, …), to broadcast with it."""
    return numbers.reshape(-1, *[1] * (like.ndim - 1))
