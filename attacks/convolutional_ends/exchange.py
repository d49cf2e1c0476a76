"""Exchange of columns that are in the space and of no individual.

If x_j − x_k are few channels that fit into another mask, x_i + x_j − x_k is a masked W_oᵀ r as well
where all share r up to a factor, as with two classes. It lies in the space and is of no individual.
Together with the three others it is dependent, so that one of the four is not among the columns:
which, tells z.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leakbench.attacks.convolutional_ends.found import FoundColumns
from leakbench.attacks.convolutional_ends.gradient import PositionGradient
from leakbench.attacks.linear_layers.demixing.recovered import UNSURE


def exchange(gradient: PositionGradient, found: FoundColumns) -> None:
    """Put columns in the place of others as long as z contradicts fewer masks then.

    Args:
        found: a column for each position, and spare ones; changed.
    """
    wrong = contradicted(gradient, found.vectors, found.active)
    number = 0
    while number < len(found.spare) and wrong.any():
        column = found.spare[number]
        shares = torch.linalg.lstsq(found.vectors, column.vector[:, None]).solution[:, 0]
        for place in (shares.abs() > LEAST_SHARE).nonzero().flatten().tolist():
            if not wrong[place]:
                continue
            vectors, active = found.vectors.clone(), found.active.clone()
            vectors[:, place], active[:, place] = column.vector, column.active
            better = contradicted(gradient, vectors, active)
            if better.sum() < wrong.sum():
                found.exchange(place, number)
                # What did not help before may now.
                wrong, number = better, -1
                break
        number += 1


def contradicted(gradient: PositionGradient, vectors: Tensor, active: Tensor) -> Tensor:
    """Return the columns whose mask is not that of the z that least squares gives them.

    Args:
        vectors, active: a column for each position, and its mask, shape (m, rank).

    Returns:
        Shape (rank,).
    """
    end = gradient.end
    extended = torch.linalg.pinv(vectors) @ gradient.space.gradient
    factor = extended[:, -1:]
    z = end.convolution.z(extended[:, :-1] / torch.where(factor == 0, 1.0, factor))
    sure = end.activation.from_kinks(z) > UNSURE * z.abs().mean(0)
    sure &= ((gradient.space.scale > 0) & ((1 - end.activation.slope).abs() > FLAT))[:, None]
    return ((end.activation.active(z) != active) & sure).any(0)


FLAT = 0.1
"""A channel whose slopes differ by less hardly shows whether it is active."""

LEAST_SHARE = 0.05
"""Share of a column in another above which they depend on each other."""
