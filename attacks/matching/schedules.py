"""Learning-rate schedules: from the share of a run that is done, shape (R, 1), to a factor."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Schedule = Callable[[Tensor], Tensor]


def constant(done: Tensor) -> Tensor:
    """Return 1."""
    return torch.ones_like(done)


def cosine_decay(done: Tensor) -> Tensor:
    """Return (1 + cos π·done) / 2.

    >>> cosine_decay(torch.tensor([[0.0], [0.5]])).flatten()
    tensor([1.0000, 0.5000])
    """
    return (1 + torch.cos(torch.pi * done)) / 2


def step_decay(done: Tensor) -> Tensor:
    """Return IG's schedule: ×0.1 at 3/8, at 5/8 and at 7/8 of the steps.

    >>> step_decay(torch.tensor([[0.0], [0.375], [0.7], [0.9]])).flatten()
    tensor([1.0000, 0.1000, 0.0100, 0.0010])
    """
    passed = sum((done >= edge).float() for edge in (3 / 8, 5 / 8, 7 / 8))
    return torch.as_tensor(0.1**passed)


def warm_cosine_decay(warm_up: float) -> Schedule:
    """Return GradInversion's schedule: linear up over a share of the steps, then cosine decay."""

    def schedule(done: Tensor) -> Tensor:
        # Not from 0: that step would be lost.
        rising = (done / warm_up).clamp_min(1 / 50) if warm_up else torch.ones_like(done)
        falling = cosine_decay((done - warm_up).clamp_min(0) / (1 - warm_up))
        return torch.minimum(rising, falling)

    return schedule
