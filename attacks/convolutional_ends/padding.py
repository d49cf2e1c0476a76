"""What zeros at the edges of maps tell of positions.

A kernel larger than 1 sees zeros beyond the edge: which ones depends on the position. So the row
space of the gradient has subspaces of vectors that are zero there, and each is spanned by the
positions that see them. Where f is orthogonal to the a of some positions, G f is a combination of
the x of the others alone. For a map of 2×2 positions and a kernel of 3×3 that takes the column
space apart into four, one for each position: four searches for B masks in place of one for 4 B.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakbench.attacks.convolutional_ends.end import ConvolutionalEnd
from leakbench.attacks.convolutional_ends.gradient import PositionGradient
from leakbench.attacks.linear_layers.demixing.gradient_space import GradientSpace


@dataclass(frozen=True)
class PaddedSpaces:
    """Where the positions of one kind are in both spaces of a gradient.

    Attributes:
        columns: basis of the space of their x, and of the x of positions that see zeros only where
            they do, orthonormal, shape (m, n).
        coordinates: basis of the f in the row space that are orthogonal to all other a, (rank, n).
        own: basis of the a that are zero where these positions see zeros, in the row space,
            shape (rank, k).
        position: the number of one of them.
    """

    columns: Tensor
    coordinates: Tensor
    own: Tensor
    position: int


def padded_spaces(gradient: PositionGradient) -> list[PaddedSpaces]:
    """Return the spaces of each kind of position, the smallest first.

    None if there is one kind, or if the rank is not B · P.
    """
    space, end, individuals = gradient.space, gradient.end, gradient.individuals
    zeros = zeros_seen(end)
    kinds, kind_of = torch.unique(zeros, dim=0, return_inverse=True)
    if len(kinds) == 1 or space.rank != individuals * end.positions:
        return []
    counts = torch.bincount(kind_of, minlength=len(kinds))
    # contains[s, t]: whether kind s sees zeros wherever t does.
    contains = (kinds[:, None] | ~kinds[None]).all(2)
    null = [_zero_at(space, end, kind) for kind in kinds]
    sizes = individuals * (contains.long() * counts[:, None]).sum(0)
    bases = []
    for (values, vectors), size in zip(null, sizes.tolist(), strict=True):
        # As many vectors must be zero there, to rounding, as positions explain, and no others.
        if size < len(values) and values[size] < CLEAR * max(float(values[size - 1]), LEAST):
            return []
        bases.append(vectors[:, :size])
    found = []
    for kind in range(len(kinds)):
        apart = [bases[other] for other in range(len(kinds)) if not contains[kind, other]]
        size = individuals * int((counts * contains[kind]).sum())
        left = torch.linalg.svd(torch.cat(apart, dim=1))[0] if apart else torch.eye(space.rank)
        coordinates = left[:, space.rank - size :].to(space.rows)
        columns = torch.linalg.svd((space.basis * space.values) @ coordinates, full_matrices=False)[
            0
        ]
        position = int((kind_of == kind).nonzero()[0])
        found.append(PaddedSpaces(columns, coordinates, bases[kind], position))
    return sorted(found, key=lambda each: each.columns.shape[1])


def zeros_seen(end: ConvolutionalEnd) -> Tensor:
    """Return which places of the kernel are beyond the edge, shape (P, places)."""
    inside = torch.ones(1, 1, *end.map_shape, dtype=torch.float64)
    return end.convolution.inputs(inside)[0] == 0


def whole_inputs(
    gradient: PositionGradient, padded: PaddedSpaces, columns: Tensor
) -> Tensor | None:
    """Return a of all positions from the x of one kind of position that sees the whole map.

    Args:
        padded: of positions that alone are in its spaces, one of each individual.
        columns: their x up to factors, shape (m, B).

    Returns:
        [a, 1], one individual after another, shape (B · P, d + 1); None where that kind sees only
        a part of the map, or shares its spaces with others.
    """
    space, end = gradient.space, gradient.end
    places = torch.arange(end.map_shape[0] * end.map_shape[1], dtype=torch.float64) + 1
    seen = end.convolution.inputs(places.reshape(1, 1, *end.map_shape))[0].long()
    alone = padded.columns.shape[1] == gradient.individuals == columns.shape[1]
    own = seen[padded.position]
    if not alone or len(torch.unique(own)) != len(places) + int((own == 0).any()):
        return None
    mixed = torch.linalg.pinv(columns) @ ((space.basis * space.values) @ padded.coordinates)
    weights = mixed @ torch.linalg.pinv(padded.own.mT @ padded.coordinates)
    extended = weights @ (space.rows @ padded.own).mT
    patches = extended[:, :-1] / extended[:, -1:]
    # Place by place of the kernel: from this position to maps, and to all positions.
    by_place = patches.reshape(len(patches), -1, len(own))
    maps = by_place.new_zeros(len(patches), by_place.shape[1], len(places))
    maps[:, :, own[own > 0] - 1] = by_place[:, :, own > 0]
    inputs = end.convolution.inputs(maps.unflatten(2, end.map_shape)).flatten(0, 1)
    return torch.cat([inputs, torch.ones_like(inputs[:, :1])], dim=1)


def _zero_at(space: GradientSpace, end: ConvolutionalEnd, places: Tensor) -> tuple[Tensor, Tensor]:
    """Return how large vectors of the row space are at places of the kernel, and these vectors.

    Returns:
        Lengths there, the smallest first, shape (rank,), and coordinates, shape (rank, rank).
    """
    channels = end.convolution.weight.shape[1] // len(places)
    rows = space.rows[:-1][places.repeat(channels)]
    if not len(rows):
        # No zeros: all of the space.
        return rows.new_zeros(space.rank), torch.eye(space.rank).to(rows)
    squares, vectors = torch.linalg.eigh(rows.mT @ rows)
    return squares.clamp_min(0).sqrt(), vectors


CLEAR = 100.0
"""How many times as long vectors must be that are not zero at the edge."""

LEAST = 1e-7
"""Length that rounding may cause."""
