"""Deflation: where the other individuals are once some of a batch are found.

With G = U S Vᵀ, [h_i, 1] = V a_i and x_i = U c_i follows Σ_i c_i a_iᵀ = S, so that a_iᵀ S⁻¹ c_j = 0
for j ≠ i and 1 for j = i. Every x_j that is known takes a dimension from all other a_i, exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.gradient_space import GradientSpace


@dataclass(frozen=True)
class DeflatedSubspace:
    """a = origin + t · directions: where the a_i are of individuals that are not found yet.

    Attributes:
        origin: shape (rank,).
        directions: orthonormal, shape (q, rank).
    """

    origin: Tensor
    directions: Tensor


def deflated_subspace(space: GradientSpace, columns: Tensor) -> DeflatedSubspace:
    """Return where the other individuals' a are.

    Args:
        columns: the x that are found, rows scaled, shape (m, n).
    """
    weights = (space.basis.mT @ columns) / space.values[:, None]
    last = space.rows[-1]
    conditions = torch.cat([functional.normalize(weights, dim=0).mT, last[None]])
    wanted = torch.zeros(len(conditions), dtype=last.dtype, device=last.device)
    wanted[-1] = 1.0
    left, values, right = torch.linalg.svd(conditions)
    independent = int((values > DEPENDENT * values[0]).sum())
    origin = right[:independent].mT @ ((left.mT @ wanted)[:independent] / values[:independent])
    return DeflatedSubspace(origin, right[independent:])


DEPENDENT = 1e-9
"""Relative singular value below which a condition follows from the others."""
