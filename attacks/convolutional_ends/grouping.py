"""Which positions belong to one individual: those that share a residual."""

from __future__ import annotations

import torch
from torch import Tensor


def groups_of(residuals: Tensor, size: int) -> Tensor:
    """Return groups of so many vectors that are equal up to rounding, and apart from all others.

    A group is taken only where the nearest other vector is many times as far as those within it:
    two individuals whose residuals agree by chance are in none.

    Args:
        residuals: shape (n, K).
        size: P.

    Returns:
        Numbers of the vectors, shape (groups, P); the longest residual first.
    """
    if not len(residuals):
        return torch.empty(0, size, dtype=torch.long)
    length = residuals.norm(dim=1).clamp_min(torch.finfo(residuals.dtype).tiny)
    apart = torch.cdist(residuals, residuals) / torch.minimum(length[:, None], length[None])
    order = apart.argsort(dim=1, stable=True)
    groups: dict[tuple[int, ...], float] = {}
    for number in range(len(residuals)):
        members = order[number, :size]
        if len(members) < size:
            break
        within = apart[members][:, members].max()
        others = torch.ones(len(residuals), dtype=torch.bool)
        others[members] = False
        nearest = apart[members][:, others].min() if others.any() else torch.tensor(torch.inf)
        if within < LOOSEST and nearest > APART * max(float(within), LEAST):
            groups[tuple(sorted(members.tolist()))] = float(length[members].mean())
    ordered = sorted(groups, key=lambda group: -groups[group])
    return torch.tensor(ordered, dtype=torch.long).reshape(-1, size)


LOOSEST = 0.02
"""Largest relative distance between residuals of one individual."""

APART = 8.0
"""How many times as far the nearest other residual must be."""

LEAST = 1e-7
"""Relative distance that rounding in double precision may cause."""
