"""The sparsest vectors of a space, by minimising Σ |v_c|^½ over it.

Iteratively reweighted least squares (Chartrand, Yin 2008, Iteratively reweighted algorithms for
compressive sensing). That the sparsest vectors of a span are those it is made of: Spielman, Wang,
Wright 2012, Exact recovery of sparsely-used dictionaries.
"""

from __future__ import annotations

import torch
from torch import Tensor


def sparsest(basis: Tensor, held: Tensor, sign: Tensor | None = None) -> Tensor:
    """Return vectors v = U c of small Σ |v_c|^½ for which one linear form of c is 1.

    Args:
        basis: U, orthonormal, shape (m, rank).
        held: the forms, shape (n, rank).
        sign: of v, shape (m, n), if it is known; entries of the wrong sign count more.

    Returns:
        Shape (m, n).
    """
    eye = torch.eye(basis.shape[1]).to(basis)
    c = held / held.square().sum(1, keepdim=True)
    v = basis @ c.mT
    floor = v.square().mean(0).sqrt()
    for _ in range(ITERATIONS):
        weights = _weights(v, floor)
        if sign is not None:
            weights = torch.where(v * sign < 0, 1.0, weights)
        normal = _normal(basis, weights)
        c = torch.linalg.solve(normal + RIDGE * eye, held[:, :, None])[:, :, 0]
        c = c / (c * held).sum(1, keepdim=True)
        v = basis @ c.mT
        floor = torch.minimum(SHRINK * floor, v.square().mean(0).sqrt())
    return v


def sparsest_with(basis: Tensor, known: Tensor, wanted: Tensor, sign: Tensor) -> Tensor:
    """Return vectors v = U c of small Σ |v_c − w_c|^½ that have w_c where it is known.

    Where v_c − w_c has the wrong sign it counts more.

    Args:
        basis: U, orthonormal, shape (m, rank).
        known: some of each column, shape (m, n).
        wanted: w, shape (m, n).
        sign: positive where v_c ≥ w_c, negative where v_c ≤ w_c, shape (m, n).

    Returns:
        Shape (m, n).
    """
    eye = torch.eye(basis.shape[1]).to(basis)
    # The first solution is one of least length beside what is known.
    weights = torch.where(known, KNOWN, UNKNOWN)
    floor = wanted.new_full((wanted.shape[1],), torch.inf)
    for _ in range(ITERATIONS_WITH):
        right = basis.mT @ (weights * wanted)
        c = torch.linalg.solve(_normal(basis, weights) + RIDGE * eye, right.mT[:, :, None])
        v: Tensor = basis @ c[:, :, 0].mT
        away = v - wanted
        floor = torch.minimum(SHRINK * floor, away.square().mean(0).sqrt())
        weights = torch.where(away * sign < 0, 1.0, _weights(away, floor))
        weights = torch.where(known, KNOWN, weights)
    return v


def _weights(v: Tensor, floor: Tensor) -> Tensor:
    """Return the weights of squares with which they count as |v_c|^½, 1 at most, shape (m, n)."""
    weights: Tensor = (v.square() + floor.square()) ** (EXPONENT / 2 - 1)
    return weights / weights.amax(0)


def _normal(basis: Tensor, weights: Tensor) -> Tensor:
    """Return Uᵀ diag(w) U for each column of weights, shape (n, rank, rank)."""
    return torch.stack([basis.mT @ (w[:, None] * basis) for w in weights.mT])


ITERATIONS = 15
"""Of a minimisation; the floor below which entries count alike is then 5e-4 of the first one."""

ITERATIONS_WITH = 20
"""Of a minimisation with known entries."""

EXPONENT = 0.5
"""Of the entries' absolute values, whose sum is minimised."""

SHRINK = 0.6
"""Factor of the floor from one iteration to the next."""

RIDGE = 1e-7
"""Ridge of the least squares, relative to the largest weight."""

KNOWN = 10.0
"""Weight of known entries, relative to the largest of the others."""

UNKNOWN = 1e-3
"""Weight of all others in the first solution."""
