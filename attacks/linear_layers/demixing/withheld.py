"""Entries of a layer's gradient that a known defense withholds, and how to complete them.

The gradient has rank B. So entries that were not sent follow from those that were, as long as every
row and every column has some more than B of them (Candès, Recht 2009, Exact Matrix Completion via
Convex Optimization), here by alternating least squares. Columns that were not sent at all cannot be
completed: those entries of the features are predicted from the others by regression on D_aux.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakbench.attacks.linear_layers.demixing.observed_gradient import ObservedGradient
from leakbench.attacks.linear_layers.demixing.recovered import RecoveredIndividuals
from leakbench.attacks.linear_layers.head import Head, Layer


@dataclass(frozen=True)
class Predictor:
    """h from its known entries, by least squares on D_aux: h = known · weights + offset.

    Attributes:
        known: which entries are known, shape (d,).
        weights: shape (known, d).
        offset: shape (d,).
        least, most: range of each entry on D_aux, shape (d,).
    """

    known: Tensor
    weights: Tensor
    offset: Tensor
    least: Tensor
    most: Tensor

    def head(self, head: Head) -> Head:
        """Return the head as a function of known entries only, an approximation."""
        first = head.first
        weight = first.weight @ self.weights.mT
        bias = first.bias + first.weight @ self.offset
        return replace(head, layers=(replace(first, weight=weight, bias=bias), *head.layers[1:]))

    def complete(self, individuals: RecoveredIndividuals) -> RecoveredIndividuals:
        """Return individuals with all of h, where only known entries were recovered."""
        features = (individuals.features @ self.weights + self.offset).clamp(self.least, self.most)
        features[:, self.known] = individuals.features
        return replace(individuals, features=features)


def withheld_of(
    layer: Layer, update: Mapping[str, Tensor], reliability: Mapping[str, Tensor]
) -> Tensor:
    """Return which entries of [W, b]'s gradient were not sent, shape (m, d + 1).

    Where entries are left out independently at random, a column of which none was sent belongs to
    an entry of h that is zero for all individuals.

    Args:
        reliability: weights that the defense gives entries, see `Defense.reliability`.
    """
    names = layer.names
    believed = {
        name: reliability.get(name, torch.ones(())).to(update[name]).expand_as(update[name])
        for name in names
    }
    weight, bias = ((update[name] == 0) & (believed[name] < 1) for name in names)
    empty = weight.all(0)
    sent_of_others = (~weight[:, ~empty]).double().mean(0)
    one_by_one = bool((sent_of_others < 1).any())
    if one_by_one and bool((believed[names[0]][weight] == 0).all()):
        often = sent_of_others.mean() * len(weight) >= OFTEN
        weight[:, empty & often] = False
    return torch.cat([weight, bias[:, None]], dim=1).to(layer.weight.device)


def completed(gradient: Tensor, withheld: Tensor, individuals: int) -> ObservedGradient:
    """Return a gradient, completed as far as the entries that were sent allow.

    Args:
        gradient: of [W, b], rows of any scale, shape (m, d + 1).
        withheld: which entries were not sent, likewise.
        individuals: B, the rank.
    """
    if not withheld.any():
        return ObservedGradient.whole(gradient)
    rank = min(individuals, *gradient.shape)
    rows, columns = _with_enough(~withheld, rank + SPARE)
    # Without the bias there is no scale: go on as if the defense were unknown.
    if not (rows.any() and columns[-1]):
        return ObservedGradient.whole(gradient)
    some, known = gradient[rows][:, columns], ~withheld[rows][:, columns]
    filled = completed_to_rank(some, known, rank)
    misfit = (filled - some)[known].square().mean().sqrt()
    if misfit > MISFIT * some[known].square().mean().sqrt():
        return ObservedGradient.whole(gradient)
    whole = torch.zeros_like(gradient)
    whole[rows.nonzero(), columns.nonzero().mT] = filled
    return ObservedGradient(whole, rows, columns[:-1], float(misfit))


def completed_to_rank(matrix: Tensor, known: Tensor, rank: int) -> Tensor:
    """Return the matrix of this rank that agrees with known entries, by alternating least squares.

    Args:
        matrix: shape (m, n).
        known: which entries are, shape (m, n); of each row and column more than `rank`.
    """
    weights = known.to(matrix.dtype)
    filled = matrix * weights
    _, values, right = torch.linalg.svd(filled / weights.mean(), full_matrices=False)
    start = right[:rank].mT * values[:rank].sqrt()
    best, least = filled, torch.inf
    for attempt in range(ATTEMPTS):
        draw = torch.Generator().manual_seed(attempt)
        noise = torch.randn(start.shape, generator=draw).to(start) * start.square().mean().sqrt()
        completed, misfit = _completed(filled, weights, start + attempt * noise)
        if misfit < least:
            best, least = completed, misfit
        if least <= ENOUGH * filled.norm():
            break
    return best


def _completed(filled: Tensor, weights: Tensor, columns: Tensor) -> tuple[Tensor, float]:
    """Return the matrix from a start, and its misfit on known entries."""
    misfit = torch.inf
    for _ in range(ALTERNATIONS):
        rows = _fitted(filled, weights, columns)
        columns = _fitted(filled.mT, weights.mT, rows)
        misfit = float(((rows @ columns.mT) * weights - filled).norm())
        if misfit <= FITTED * filled.norm():
            break
    whole: Tensor = rows @ columns.mT
    return whole, misfit


def predictor_of(features: Tensor, known: Tensor) -> Predictor:
    """Return the least-squares prediction of D_aux's features from some of their entries.

    Args:
        features: of D_aux, shape (n, d).
        known: which entries are, shape (d,).
    """
    mean = features.mean(0)
    centred = features - mean
    given = centred[:, known]
    normal = given.mT @ given
    ridge = RIDGE * normal.diagonal().mean() * torch.eye(len(normal)).to(normal)
    weights = torch.linalg.solve(normal + ridge, given.mT @ centred)
    # Known entries are themselves.
    weights[:, known] = torch.eye(len(normal)).to(normal)
    offset = mean - mean[known] @ weights
    return Predictor(known, weights, offset, features.amin(0), features.amax(0))


def _with_enough(known: Tensor, least: int) -> tuple[Tensor, Tensor]:
    """Return rows and columns that have at least so many known entries in each other."""
    rows = torch.ones_like(known[:, 0])
    columns = torch.ones_like(known[0])
    while True:
        enough = known[:, columns].sum(1) >= least
        enough_rows = rows & enough
        enough_columns = columns & (known[enough_rows].sum(0) >= least)
        if torch.equal(enough_rows, rows) and torch.equal(enough_columns, columns):
            return rows, columns
        rows, columns = enough_rows, enough_columns


def _fitted(matrix: Tensor, weights: Tensor, columns: Tensor) -> Tensor:
    """Return the rows whose products with columns are the nearest to a matrix, where it is known.

    Args:
        matrix: zeros where not known, shape (m, n).
        weights: ones where known, shape (m, n).
        columns: shape (n, rank).
    """
    rank = columns.shape[1]
    normal = (weights @ (columns[:, :, None] * columns[:, None]).flatten(1)).reshape(-1, rank, rank)
    ridge = TINY * normal.diagonal(dim1=1, dim2=2).mean() * torch.eye(rank).to(normal)
    fitted: Tensor = torch.linalg.solve(normal + ridge, (matrix @ columns)[..., None]).squeeze(2)
    return fitted


OFTEN = 20
"""Expected number of sent entries from which a column without any is taken for zero."""

SPARE = 4
"""Known entries that a row or column needs beyond the rank."""

ALTERNATIONS = 300
"""Most alternations between rows and columns."""

ATTEMPTS = 4
"""Most starts of the completion, the first from an SVD."""

ENOUGH = 1e-3
"""Relative misfit at which no other start is tried."""

MISFIT = 0.3
"""Relative misfit above which the completion has failed."""

FITTED = 1e-7
"""Relative misfit that is rounding."""

RIDGE = 1e-2
"""Relative ridge of the prediction from D_aux."""

TINY = 1e-9
"""Relative ridge of the alternating least squares."""
