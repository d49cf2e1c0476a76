"""Directions q in which U q is sparse: the columns of a dictionary that is used sparsely.

For X of enough sparse rows, and U an orthonormal basis of its column space, the local minima of
‖U q‖₁ over the unit sphere are the columns of Q with X = U Q (Sun, Qu, Wright 2015, Complete
dictionary recovery over the sphere). They are found by steps of fixed, shrinking length against the
subgradient from random starts (Bai, Jiang, Sun 2018, Subgradient descent learns orthogonal
dictionaries). A start near a row of U is nearer to those who activate that unit alone (Spielman,
Wang, Wright 2012, Exact recovery of sparsely-used dictionaries).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def random_starts(basis: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return random rows of U, each with a random direction of half its length added.

    Args:
        basis: U, orthonormal, shape (m, b).
        generator: a CPU generator.

    Returns:
        Unit vectors, shape (count, b).
    """
    lengths = basis.norm(dim=1)
    live = (lengths > LEAST_LENGTH * lengths.max()).nonzero().flatten()
    drawn = torch.randint(len(live), (count,), generator=generator)
    rows = functional.normalize(basis[live[drawn.to(live.device)]], dim=1)
    aside = torch.randn(count, basis.shape[1], generator=generator).to(basis)
    return functional.normalize(rows + ASIDE * functional.normalize(aside, dim=1), dim=1)


def sparse_directions(basis: Tensor, starts: Tensor, steps: int) -> Tensor:
    """Return what local minima of ‖U q‖₁ on the unit sphere starts lead to.

    Args:
        basis: U, orthonormal, shape (m, b).
        starts: unit vectors, shape (n, b).
        steps: the last one has length `LAST_STEP`.

    Returns:
        Unit vectors, shape (n, b).
    """
    q = starts
    shrink = (LAST_STEP / FIRST_STEP) ** (1 / max(1, steps - 1))
    for step in range(steps):
        subgradient = (q @ basis.mT).sign() @ basis
        along = subgradient - (subgradient * q).sum(1, keepdim=True) * q
        length = FIRST_STEP * shrink**step
        q = functional.normalize(q - length * functional.normalize(along, dim=1), dim=1)
    return q


ASIDE = 0.5
"""Length of the random part of a start. Rows alone start from too few places; random vectors alone
lead to a column a tenth as often."""

FIRST_STEP = 0.3
"""Length of the first step, in radians."""

LAST_STEP = 1e-6
"""Length of the last step; what is left is fitted to the zeros."""

LEAST_LENGTH = 1e-6
"""Rows shorter than this, relative to the longest, are of units that nobody activates."""
