"""Non-linear least squares, many problems side by side."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def least_squares(
    equations: Callable[[Tensor], tuple[Tensor, Tensor]], start: Tensor, iterations: int
) -> Tensor:
    """Return where sums of squares are least near each start: Levenberg 1944, Marquardt 1963.

    A problem's step is taken if it helps; then its damping falls, else it rises.

    Args:
        equations: unknowns (n, q) → residuals (n, m) and their derivatives (n, m, q).
        start: shape (n, q), q > 0.
        iterations: evaluations of the equations.

    Returns:
        The unknowns, shape (n, q).
    """
    unknowns = start
    residuals, derivatives = equations(unknowns)
    cost = residuals.square().sum(1)
    damping = torch.full_like(cost, FIRST)
    for _ in range(iterations):
        normal = derivatives.mT @ derivatives
        diagonal = normal.diagonal(dim1=1, dim2=2)
        least = LEAST * diagonal.amax(1, keepdim=True) + torch.finfo(cost.dtype).tiny
        damped = normal + torch.diag_embed(damping[:, None] * diagonal + least)
        downhill = (derivatives.mT @ residuals[..., None]).squeeze(2)
        root, failed = torch.linalg.cholesky_ex(damped)
        step = torch.cholesky_solve(downhill[..., None], root).squeeze(2)
        step = torch.where((failed == 0)[:, None], step, 0.0)
        there = unknowns - step
        residuals_there, derivatives_there = equations(there)
        cost_there = residuals_there.square().sum(1)
        better = cost_there < cost
        unknowns = torch.where(better[:, None], there, unknowns)
        residuals = torch.where(better[:, None], residuals_there, residuals)
        derivatives = torch.where(better[:, None, None], derivatives_there, derivatives)
        cost = torch.where(better, cost_there, cost)
        damping = torch.where(better, damping / FALL, damping * RISE).clamp(*WITHIN)
    return unknowns


FIRST = 1e-2
"""Damping at the start, relative to the diagonal."""

FALL, RISE = 3.0, 4.0
"""Of the damping, after a step that helped and one that did not."""

WITHIN = (1e-12, 1e6)
"""Of the damping."""

LEAST = 1e-12
"""Added to the diagonal, relative to its largest entry."""
