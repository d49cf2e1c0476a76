"""Levenberg's and Marquardt's method on the dummies of several runs side by side."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from leakbench.attacks.feature_matching.residual import Dummies, Residual


def descend(
    residual: Residual,
    dummies: Dummies,
    sharpness: Tensor | None,
    iterations: int,
) -> Dummies:
    """Return dummies of less cost: Levenberg 1944, Marquardt 1963.

    A run's step is taken if it helps; then its damping falls, else it rises. Of a large batch the
    dummies move in turn, as many at once as the equations are solved for in about a second.

    Args:
        sharpness: of softened kinks, shape (1, 1, 1); None for the layers themselves.
        iterations: evaluations of the equations.
    """
    damping = dummies.logits.new_full((len(dummies.logits),), FIRST)
    for _, block in zip(range(iterations), _blocks(residual, dummies), strict=False):
        cost, normal, downhill = residual.equations(dummies, block, sharpness)
        diagonal = normal.diagonal(dim1=1, dim2=2)
        least = LEAST * diagonal.amax(1, keepdim=True) + torch.finfo(cost.dtype).tiny
        damped = normal + torch.diag_embed(damping[:, None] * diagonal + least)
        root, failed = torch.linalg.cholesky_ex(damped)
        step = torch.cholesky_solve(downhill[..., None], root).squeeze(2)
        step = torch.where((failed == 0)[:, None], step, 0.0)
        there = _moved(residual, dummies, block, -step)
        better = residual.cost(there, sharpness) < cost
        dummies = Dummies(
            torch.where(better[:, None, None], there.unknowns, dummies.unknowns),
            torch.where(better[:, None, None], there.logits, dummies.logits),
        )
        damping = torch.where(better, damping / FALL, damping * RISE).clamp(*WITHIN)
    return dummies


def _blocks(residual: Residual, dummies: Dummies) -> Iterator[Tensor]:
    """Yield which dummies move in each iteration, without an end."""
    everybody = torch.arange(dummies.unknowns.shape[1], device=dummies.unknowns.device)
    together = max(1, LARGEST // residual.unknowns)
    while True:
        yield from torch.split(everybody, together)


def _moved(residual: Residual, dummies: Dummies, moving: Tensor, step: Tensor) -> Dummies:
    of_each = step.view(len(step), len(moving), -1)
    of_features = of_each[..., : residual.space.unknowns]
    unknowns = dummies.unknowns.index_add(1, moving, of_features)
    if not residual.joint:
        return Dummies(unknowns, dummies.logits)
    of_labels = of_each[..., residual.space.unknowns :]
    return Dummies(unknowns, dummies.logits.index_add(1, moving, of_labels))


LARGEST = 1536
"""Most unknowns of the equations."""

FIRST = 1e-2
"""Damping at the start of each descent, relative to the diagonal."""

FALL, RISE = 3.0, 4.0
"""Of the damping, after a step that helped and one that did not."""

WITHIN = (1e-12, 1e8)
"""Of the damping."""

LEAST = 1e-13
"""Added to the diagonal, relative to its largest entry."""
