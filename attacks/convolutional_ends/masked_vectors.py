"""Masked vectors W_oᵀ r, and which of them lie in a column space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from leakbench.attacks.convolutional_ends.found import FoundColumns
from leakbench.attacks.convolutional_ends.kinked import Kinked

TINY = 1e-12
"""Below this a length is none."""


@dataclass(frozen=True)
class Sought:
    """What is searched for.

    Attributes:
        basis: of the column space, orthonormal, rows scaled, in double precision, shape (m, rank).
        directions: W_oᵀ Q with Q a basis of the residuals, rows scaled, shape (m, q).
        activation: for z as it is scaled.
        starts: z of positions of other individuals, shape (m, n).
        residuals: coordinates of p − e_y of these individuals, shape (n, q).
        tolerance: relative distance from the space that rounding explains for some vectors (m, n),
            shape (n,).
    """

    basis: Tensor
    directions: Tensor
    activation: Kinked
    starts: Tensor
    residuals: Tensor
    tolerance: Callable[[Tensor], Tensor]


def take(
    active: Tensor, outside: Tensor, length: Tensor, sought: Sought, found: FoundColumns
) -> Tensor:
    """Take the masks whose vectors are in the space and new.

    Args:
        active: shape (m, n).
        outside, length: how far their vectors are from the space, and how long, shape (n,).

    Returns:
        Which of them are in the space, known before or not, shape (n,).
    """
    count = active.sum(0)
    promising = (outside < PROMISING * length) & (count > FEWEST)
    promising &= count < len(active) - LEAST_ACTIVE
    rows = promising.nonzero().flatten()
    fresh = rows[found.new(active[:, rows])] if len(rows) else rows
    if len(fresh):
        vectors, masks, r, distances = refined(active[:, fresh], sought)
        tolerance = sought.tolerance(vectors)
        right = distances < tolerance
        # A mask that differs from a known one only where W_oᵀ r is next to nothing is the same.
        # Few channels may be those by which two masks differ, one of which contains the other.
        small = masks[:, right].sum(0) <= LEAST_ACTIVE
        found.add(vectors[:, right], masks[:, right], r[right], 2 * tolerance[right], small)
        promising[fresh[~right]] = False
    return promising


def refined(active: Tensor, sought: Sought) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the masked vectors W_oᵀ r nearest to the column space, from approximate masks.

    Args:
        active: shape (m, n).

    Returns:
        Vectors and masks, shape (m, n) each, their r, shape (n, q), and relative distances from the
        space, shape (n,).
    """
    activation, basis = sought.activation.to(sought.basis), sought.basis
    for iteration in range(REFINEMENTS):
        derivative = activation.derivative(active)
        r = nearest_residuals(derivative, sought.directions, sought.basis)
        direction = sought.directions @ r.mT
        vector = derivative * direction
        inside = basis @ (basis.mT @ vector)
        better = activation.nearer(inside, direction)
        if torch.equal(better, active) or iteration == REFINEMENTS - 1:
            break
        active = better
    distances = (vector - inside).norm(dim=0) / vector.norm(dim=0).clamp_min(TINY)
    return vector, active, r, distances


def nearest_residuals(derivative: Tensor, directions: Tensor, basis: Tensor) -> Tensor:
    """Return the r for which derivative ⊙ W_oᵀ r is nearest to a space, relative, shape (n, q).

    Args:
        derivative: shape (m, n).
        directions: W_oᵀ Q, shape (m, q).
        basis: of the space, orthonormal, shape (m, rank).
    """
    if directions.shape[1] == 1:
        return derivative.new_ones(derivative.shape[1], 1)
    masked = derivative.mT[:, :, None] * directions
    length = masked.mT @ masked
    inside = basis.mT @ masked
    trace = length.diagonal(dim1=1, dim2=2).mean(1)
    eye = torch.eye(length.shape[1]).to(length)
    root = torch.linalg.cholesky(length + (1e-12 * trace + TINY)[:, None, None] * eye)
    half = torch.linalg.solve_triangular(root, length - inside.mT @ inside, upper=False)
    whole = torch.linalg.solve_triangular(root, half.mT, upper=False)
    nearest = torch.linalg.eigh(whole).eigenvectors[:, :, :1]
    residuals: Tensor = torch.linalg.solve_triangular(root.mT, nearest, upper=True)
    return residuals[:, :, 0]


def nearest_coefficients(derivative: Tensor, directions: Tensor, x: Tensor) -> Tensor:
    """Return the r for which derivative ⊙ W_oᵀ r is nearest to x, shape (n, q).

    Args:
        derivative, x: shape (m, n).
        directions: shape (m, q).
    """
    q = directions.shape[1]
    squares = (directions[:, :, None] * directions[:, None]).flatten(1)
    normal = (derivative.square().mT @ squares).reshape(-1, q, q)
    wanted = (derivative * x).mT @ directions
    if q == 1:
        return wanted / (normal[:, :, 0] + TINY)
    ridge = RIDGE * normal.diagonal(dim1=1, dim2=2).mean(1) + TINY
    eye = torch.eye(q, dtype=normal.dtype, device=normal.device)
    solved: Tensor = torch.linalg.solve(normal + ridge[:, None, None] * eye, wanted)
    return solved


RIDGE = 1e-5
"""Relative ridge of the least squares in single precision."""

PROMISING = 0.1
"""Relative distance from the space up to which a vector is refined."""

LEAST_ACTIVE = 10
"""Up to so many channels that are active a mask is taken last, and with so few that are not never:
that fits anywhere."""

FEWEST = 1
"""A mask of one channel is none."""

REFINEMENTS = 8
"""Times that mask and r are computed from each other."""
