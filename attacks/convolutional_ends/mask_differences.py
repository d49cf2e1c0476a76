"""Two masks from nothing but the difference of their x.

Positions of one image share r, and their masks differ in few channels: x_1 − x_2 is one of the
sparsest vectors of the column space. Its entries are ± those of W_oᵀ r, and the sign says which of
the two is active there. So entries of both x are known, and each is the sparsest vector of the
space that has them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakbench.attacks.convolutional_ends.masked_vectors import Sought
from leakbench.attacks.convolutional_ends.sparsest import sparsest_with


@dataclass(frozen=True)
class Difference:
    """x_1 − x_2 up to a factor.

    Attributes:
        vector: shape (m,).
        direction: W_oᵀ r with the same factor, of either sign, shape (m,).
        inside: where one is active and the other is not, shape (m,).
    """

    vector: Tensor
    direction: Tensor
    inside: Tensor


def difference_of(vector: Tensor, sought: Sought) -> Difference | None:
    """Return what two x may differ by; None if the vector (m,) is of another kind.

    With several residuals the entries' squares are linear in r rᵀ, which they determine if there
    are enough of them.
    """
    slope = sought.activation.to(vector).slope
    inside = (vector.abs() > ZERO * vector.abs().max()) & (sought.directions != 0).any(1)
    directions = (sought.directions * (1 - slope)[:, None])[inside]
    entries = vector[inside]
    first, second = torch.triu_indices(directions.shape[1], directions.shape[1])
    if not len(first) + SPARE <= len(entries) < len(vector) / 2:
        return None
    # Twice, for the two halves of a symmetric matrix.
    twice = torch.where(first == second, 1.0, 2.0)
    products = directions[:, first] * directions[:, second] * twice
    relative = products / entries.square()[:, None]
    halves = torch.linalg.lstsq(relative, torch.ones_like(relative[:, :1])).solution[:, 0]
    outer = halves.new_zeros(directions.shape[1], directions.shape[1])
    outer[first, second] = outer[second, first] = halves
    values, vectors = torch.linalg.eigh(outer)
    r = vectors[:, -1] * values[-1].clamp_min(0).sqrt()
    off = ((directions @ r).abs() - entries.abs()).square().mean().sqrt()
    if off > ALIKE * entries.abs().mean():
        return None
    return Difference(vector, sought.directions @ r, inside)


def masks_of(differences: list[Difference], sought: Sought) -> tuple[Tensor, Tensor]:
    """Return the two masks, and their W_oᵀ r, of each of some differences, not verified.

    Returns:
        Shape (m, 2 n) each.
    """
    activation = sought.activation.to(sought.basis)
    direction = torch.stack([each.direction for each in differences for _ in range(2)], dim=1)
    inside = torch.stack([each.inside for each in differences for _ in range(2)], dim=1)
    positive = torch.stack([each.vector * each.direction > 0 for each in differences], dim=1)
    active = torch.stack([positive, ~positive], dim=2).flatten(1)
    off = activation.derivative(torch.zeros_like(active)) * direction
    wanted = torch.where(inside & active, direction, off)
    rises = direction * (1 - activation.slope)[:, None]
    single = sought.basis.float()
    x = sparsest_with(single, inside, wanted.float(), rises.float()).to(direction)
    return activation.nearer(x, direction), direction


ZERO = 1e-3
"""Below this, relative to the largest, an entry is zero."""

ALIKE = 0.02
"""Relative deviation up to which the entries of a difference agree."""

SPARE = 1
"""Entries of a difference beyond those that determine r."""
