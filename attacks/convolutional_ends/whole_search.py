"""The searches for all positions of a victim batch, the quick ones first."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakbench.attacks.convolutional_ends.alternating import AlternatingProjections
from leakbench.attacks.convolutional_ends.exchange import exchange
from leakbench.attacks.convolutional_ends.found import FoundColumns, nothing_found
from leakbench.attacks.convolutional_ends.gradient import PositionGradient
from leakbench.attacks.convolutional_ends.masked_vectors import Sought, take
from leakbench.attacks.convolutional_ends.padding import padded_spaces, whole_inputs
from leakbench.attacks.convolutional_ends.search import PositionSearch
from leakbench.attacks.convolutional_ends.sparse_vectors import SparseVectors
from leakbench.attacks.linear_layers.demixing.recovered import CERTAIN


@dataclass(frozen=True)
class PositionBudget:
    """How long to search for the positions of one victim batch.

    Attributes:
        volleys: of alternating projections, at most.
        sparse_volleys: of minimisations that end at sparse vectors, at most.
        reflections: iterations of relaxed reflections, at most.
        quiet: of them without a new position, after which they end.
        runs: side by side.
    """

    volleys: int
    sparse_volleys: int
    reflections: int
    quiet: int
    runs: int


def found_columns(
    gradient: PositionGradient, starts: Tensor, budget: PositionBudget, seed: int
) -> FoundColumns:
    """Return the x of positions of a batch, as many as are found.

    1. Where a kernel sees the edge, kind by kind of positions; where one kind sees the whole map,
       all others follow from it.
    2. Elsewhere in the whole column space.

    In each, alternating projections find masks that differ much, sparse vectors those that differ
    little, and relaxed reflections the others: in both spaces, or behind a shortcut, where z is not
    known, in the column space.

    Args:
        starts: z of positions of D_aux, shape (m, n · P).
    """
    sought, factor = gradient.sought(starts, seed)
    found = nothing_found(sought.basis, sought.directions.shape[1])
    wanted = gradient.space.rank
    by_kind = _by_kind(gradient, sought, found, budget, seed)
    if not by_kind:
        _quickly(sought, found, wanted, budget, seed)
    if len(found) < wanted and not _suffices(gradient, found):
        if not gradient.end.has_shortcut:
            search = PositionSearch(
                sought,
                found,
                lambda columns: gradient.z_space(columns, factor),
                budget.runs,
                seed,
            )
            search.search(wanted, budget.reflections, budget.quiet)
        elif not by_kind:
            _in_column_space(sought, found, wanted, budget, seed)
    if not gradient.end.has_shortcut:
        found.complete(wanted)
        if len(found) == wanted:
            exchange(gradient, found)
    return found


def _quickly(
    sought: Sought, found: FoundColumns, wanted: int, budget: PositionBudget, seed: int
) -> None:
    AlternatingProjections(sought, found, budget.runs, seed).search(wanted, budget.volleys)
    if len(found) < wanted:
        SparseVectors(sought, found, seed).search(wanted, budget.sparse_volleys)


def _in_column_space(
    sought: Sought, found: FoundColumns, wanted: int, budget: PositionBudget, seed: int
) -> None:
    search = PositionSearch(sought, found, None, budget.runs, seed)
    search.search(wanted, budget.reflections, budget.quiet)


def _suffices(gradient: PositionGradient, found: FoundColumns) -> bool:
    """Whether those that are missing hardly change the a of those that are found."""
    if not len(found):
        return False
    inverse = torch.linalg.pinv(found.vectors)
    length = (inverse @ gradient.space.gradient).norm(dim=1).clamp_min(LEAST)
    moved = gradient.unexplained(found.vectors) * inverse.norm(dim=1) / length
    return bool((moved < CERTAIN).all())


def _by_kind(
    gradient: PositionGradient,
    sought: Sought,
    found: FoundColumns,
    budget: PositionBudget,
    seed: int,
) -> bool:
    """Search kind by kind of positions; return whether the edges of maps tell them apart."""
    spaces = padded_spaces(gradient)
    for padded in spaces:
        own = replace(sought, basis=padded.columns)
        inside = nothing_found(own.basis, sought.directions.shape[1])
        known = (padded.columns.mT @ found.vectors).norm(dim=0) > INSIDE
        inside.add(found.vectors[:, known], found.active[:, known], found.residuals[known])
        already = len(inside)
        size = padded.columns.shape[1]
        _quickly(own, inside, size, budget, seed)
        if len(inside) < size:
            _in_column_space(own, inside, size, budget, seed)
        found.add(
            inside.vectors[:, already:], inside.active[:, already:], inside.residuals[already:]
        )
        extended = whole_inputs(gradient, padded, inside.vectors)
        if extended is not None:
            _take_all(gradient, sought, found, inside.residuals, extended)
            break
    return bool(spaces)


def _take_all(
    gradient: PositionGradient,
    sought: Sought,
    found: FoundColumns,
    residuals: Tensor,
    extended: Tensor,
) -> None:
    """Take the x of all positions whose [a, 1] are known.

    Args:
        residuals: r of each individual up to factors, shape (B, q).
        extended: [a, 1], one individual after another, shape (B · P, d + 1).
    """
    x = gradient.space.gradient @ torch.linalg.pinv(extended)
    direction = sought.directions @ residuals.repeat_interleave(gradient.end.positions, 0).mT
    scale = (x * direction).sum(0) / direction.square().sum(0)
    for _ in range(FITS):
        active = sought.activation.nearer(x / scale, direction)
        vector = sought.activation.derivative(active) * direction
        scale = (x * vector).sum(0) / vector.square().sum(0).clamp_min(LEAST)
    inside = sought.basis @ (sought.basis.mT @ vector)
    take(active, (vector - inside).norm(dim=0), vector.norm(dim=0), sought, found)


INSIDE = 0.99
"""Part of a column that must be in a space for it to be one of it."""

FITS = 8
"""Times that masks and lengths of x are computed from each other."""

LEAST = 1e-12
"""Below this a length is none."""
