"""Those individuals of a batch who are not found yet, in the row space of its gradient.

With G = U S Vᵀ, [h_i, 1] = V a_i and x_i = U c_i follows Σ_i c_i a_iᵀ = S, so that a_iᵀ S⁻¹ c_j = 0
for j ≠ i and 1 for j = i. With every x_j that is known all others' a_i have a dimension less,
exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.mixture import Space


@dataclass(frozen=True)
class Remaining:
    """a = origin + t · directions: where the a_i are of those who are not found yet.

    Attributes:
        origin: shape (rank,).
        directions: orthonormal, shape (left, rank).
    """

    origin: Tensor
    directions: Tensor


def remaining_after(space: Space, columns: Tensor) -> Remaining:
    """Return where the others' a are once some x are found.

    Args:
        columns: the x, rows scaled, shape (m, n).
    """
    weights = (space.basis.mT @ columns) / space.values[:, None]
    last = space.rows[-1]
    conditions = torch.cat([functional.normalize(weights, dim=0).mT, last[None]])
    wanted = torch.zeros(len(conditions), dtype=last.dtype, device=last.device)
    wanted[-1] = 1.0
    left, values, right = torch.linalg.svd(conditions)
    independent = int((values > DEPENDENT * values[0]).sum())
    origin = right[:independent].mT @ ((left.mT @ wanted)[:independent] / values[:independent])
    return Remaining(origin, right[independent:])


DEPENDENT = 1e-9
"""Conditions that follow from the others but for this, relative."""
