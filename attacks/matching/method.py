"""The parts of a gradient-matching method: what an attack declares and the engine runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from leakbench.attacks.matching.optimisers import Optimiser
from leakbench.attacks.matching.priors import Statistics
from leakbench.attacks.matching.schedules import Schedule, constant


@dataclass(frozen=True)
class PixelRange:
    """Coordinates in which dummies are optimised: black is `low`, white is `high`."""

    low: float
    high: float

    def to_pixels(self, images: Tensor) -> Tensor:
        """Return images in [0, 1], which is what the shared model takes."""
        return (images - self.low) / (self.high - self.low)

    def from_pixels(self, pixels: Tensor) -> Tensor:
        """Return pixels in [0, 1] in these coordinates."""
        return self.low + (self.high - self.low) * pixels


RAW = PixelRange(0.0, 1.0)
CENTRED = PixelRange(-1.0, 1.0)


@dataclass(frozen=True)
class Iterate:
    """The dummies of R runs, as a prior sees them.

    Attributes:
        images: in the method's coordinates, shape (R, B, 3, size, size).
        done: the share of each run that is done, shape (R,).
        victim: which victim each run belongs to, shape (R,).
        statistics, target_statistics: of the dummies and of the victim; empty where the victim's
            are not known.
    """

    images: Tensor
    done: Tensor
    victim: Tensor
    statistics: Statistics
    target_statistics: Statistics


@dataclass(frozen=True)
class Victim:
    """What the engine needs of one observed batch of B individuals.

    Attributes:
        update: parameter name → gradient.
        labels: of the dummies, shape (B,), or None to optimise them jointly, as soft labels.
        batch_size: B.
        seed: of its runs.
        statistics: BatchNorm layer → mean and variance, for a prior that matches them.
        reliability: parameter name → weights that broadcast to the parameter's shape, by which the
            update and the dummies' gradients are multiplied before they are compared; 1 where left
            out.
    """

    update: Mapping[str, Tensor]
    labels: Tensor | None
    batch_size: int
    seed: int
    statistics: Mapping[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    reliability: Mapping[str, Tensor] = field(default_factory=dict)


Start = Callable[[Victim, torch.Generator], Tensor]
"""A victim and a CPU generator to the first images of a run, shape (B, 3, size, size)."""


def standard_normal(image_shape: tuple[int, ...]) -> Start:
    """Return the start x̃ ~ N(0, 1) in the method's coordinates."""

    def start(victim: Victim, generator: torch.Generator) -> Tensor:
        return torch.randn(victim.batch_size, *image_shape, generator=generator)

    return start


@dataclass(frozen=True)
class Method:
    """In what one gradient-matching attack differs from another.

    Attributes:
        distance: dummy gradients and updates of R runs to a distance each, shape (R,).
        optimiser: of images, and of label logits where labels are optimised jointly.
        start: the first images, in the coordinates of `pixels`.
        steps: gradient evaluations of a run, restarts included.
        runs: how many runs a victim gets; the one with the least distance counts.
        schedule: factor of the learning rate.
        prior: what is added to the distance for the optimiser, shape (R,).
        pixels: coordinates of the images.
        projected: number of evaluations after a start in which images are kept in the pixel range;
            0 for none, infinity for all.
        noise: standard deviation of the noise added to the images after each step, times the
            schedule's factor.
        tolerance: a run has converged, and ends, at this distance.
        factors: whether the distance takes weight gradients of linear layers as `Factors`, and
            targets as `Measured`: it does if it needs nothing of them but inner products.
        patience: evaluations without a decrease of the distance by 1 % after which a run is stuck
            and restarts; None for no limit.
    """

    distance: Callable[[Any, Any], Tensor]
    optimiser: Optimiser
    start: Start
    steps: int
    runs: int = 1
    schedule: Schedule = constant
    prior: Callable[[Iterate], Tensor] | None = None
    pixels: PixelRange = RAW
    projected: float = math.inf
    noise: float = 0.0
    tolerance: float = 0.0
    patience: int | None = None
    factors: bool = False


@dataclass(frozen=True)
class Reconstruction:
    """The best dummies found for one victim.

    Attributes:
        images: in [0, 1] if the method always projects, shape (B, 3, size, size).
        labels: main-task classes, shape (B,).
        loss: their distance to the update, without the prior.
        steps: gradient evaluations spent on the victim, all runs together.
        restarts: how often a run was started afresh.
        diverged: whether no iterate of the best run was better than its first.
        compiled: whether the steps ran compiled.
    """

    images: Tensor
    labels: Tensor
    loss: float
    steps: int
    restarts: int
    diverged: bool
    compiled: bool = False
