"""Exchange of columns that are in the space, but of no individual.

If x_j − x_k are few channels that fit into another mask, x_i + x_j − x_k is a masked W_oᵀ r as well
where all share r up to a factor, as with two classes. It lies in the space and is of no individual.
Together with the three others it is dependent, so that one of the four is not among the columns:
which, tells z. So it is with the sum of two masks that have no channel in common.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.convolutional_ends.found import Column, FoundColumns
from leakbench.attacks.convolutional_ends.gradient import PositionGradient
from leakbench.attacks.linear_layers.demixing.recovered import UNSURE


def exchange(gradient: PositionGradient, found: FoundColumns) -> None:
    """Put columns in the place of others as long as z contradicts fewer masks then.

    Args:
        found: a column for each position, and spare ones; changed.
    """
    masks_add_up = gradient.directions.shape[1] == 1 and not gradient.end.activation.slope.any()
    wrong = contradicted(gradient, found.vectors, found.active)
    better = True
    while better and wrong.any():
        others = list(found.spare)
        if masks_add_up:
            others += _sums_and_differences(gradient, found, wrong)
        before = int(wrong.sum())
        for column in others:
            wrong = _placed(gradient, found, column, wrong)
        better = int(wrong.sum()) < before


def _placed(
    gradient: PositionGradient, found: FoundColumns, column: Column, wrong: Tensor
) -> Tensor:
    """Put a column in the place of one that it depends on if that helps; return who is wrong."""
    shares = torch.linalg.lstsq(found.vectors, column.vector[:, None]).solution[:, 0]
    for place in ((shares.abs() > LEAST_SHARE) & wrong).nonzero().flatten().tolist():
        vectors, active = found.vectors.clone(), found.active.clone()
        vectors[:, place], active[:, place] = column.vector, column.active
        better = contradicted(gradient, vectors, active)
        if better.sum() < wrong.sum():
            found.replace(place, column)
            return better
    return wrong


def _sums_and_differences(
    gradient: PositionGradient, found: FoundColumns, wrong: Tensor
) -> list[Column]:
    """Return what contradicted masks are without another, or together with one of few channels."""
    columns = []
    # Masks say nothing of channels that no individual activates.
    masks = found.active & (gradient.space.scale > 0)[:, None]
    small = masks.sum(0) <= SMALL
    for place, other in product(wrong.nonzero().flatten().tolist(), range(len(found))):
        mask, part = masks[:, place], masks[:, other]
        if place != other and bool((part <= mask).all()):
            active = mask & ~part
        elif small[other] and not (part & mask).any():
            active = mask | part
        else:
            continue
        vector = functional.normalize(torch.where(active, gradient.directions[:, 0], 0.0), dim=0)
        columns.append(Column(vector, active, found.residuals[place]))
    return columns


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


SMALL = 20
"""Channels of a mask that may be apart from many others."""

FLAT = 0.1
"""A channel whose slopes differ by less hardly shows whether it is active."""

LEAST_SHARE = 0.05
"""Share of a column in another above which they depend on each other."""
