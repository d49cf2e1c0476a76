"""The gradient of a hidden layer as a mixture of individuals, and who stands behind its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from attacks.hidden_layer import HiddenLayer


@dataclass(frozen=True)
class Space:
    """Where the x_i of one victim batch lie. Rows are scaled so that all units count alike.

    Attributes:
        gradient: G, shape (m, d + 1), not scaled.
        scale: of the rows, shape (m,).
        basis: U of the column space of the scaled G, orthonormal, shape (m, rank).
        values: singular values of the scaled G, shape (rank,).
        noise: the next one: what is not individuals'.
        residuals: Q of the space of the r_i, orthonormal, shape (K, q).
        directions: W_oᵀ Q, rows scaled, shape (m, q).
    """

    gradient: Tensor
    scale: Tensor
    basis: Tensor
    values: Tensor
    noise: float
    residuals: Tensor
    directions: Tensor

    @property
    def rank(self) -> int:
        """Of the gradient: how many individuals can be told apart in it."""
        return self.basis.shape[1]

    def blur(self, vectors: Tensor) -> Tensor:
        """Return how far noise may move vectors of the space, shape (m, n), relative, shape (n,).

        Who adds little to the gradient is found where the noise moves the space the most.
        """
        coordinates = self.basis.mT @ vectors / self.values[:, None]
        moved: Tensor = self.noise * coordinates.norm(dim=0) / vectors.norm(dim=0).clamp_min(TINY)
        return moved


@dataclass(frozen=True)
class Guesses:
    """How other individuals would enter a gradient: where runs start.

    Attributes:
        masks: which units they activate, shape (n, m).
        residuals: p − e_y, shape (n, K).
    """

    masks: Tensor
    residuals: Tensor


@dataclass(frozen=True)
class Demixed:
    """Individuals found in one victim batch, n ≤ B.

    Attributes:
        features: h, shape (n, d).
        labels: main-task classes, shape (n,).
        mismatch: how far what h makes of the layer is from the x that was found, relative, shape
            (n,).
        certain: for whom that is no more than the update's noise explains, shape (n,).
        certified: for whom it is so little that the feature is exact, in a batch in which all are
            certain: one wrong x takes its part of all the h. Shape (n,).
    """

    features: Tensor
    labels: Tensor
    mismatch: Tensor
    certain: Tensor
    certified: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Demixed:
        return Demixed(
            features=self.features[rows],
            labels=self.labels[rows],
            mismatch=self.mismatch[rows],
            certain=self.certain[rows],
            certified=self.certified[rows],
        )


def space_of(layer: HiddenLayer, update: Mapping[str, Tensor], individuals: int) -> Space:
    """Return where the x_i of an update lie.

    Ranks are those that stand out of the rounding of the update's precision.
    """
    precision = torch.finfo(update[layer.names[0]].dtype).eps
    outer, outer_values = _columns(layer.output_gradient(update))
    classes = len(layer.output_bias)
    residuals = outer[:, : min(_rank(outer_values, precision), individuals, classes - 1)]
    directions = layer.output_weight.T @ residuals
    length = directions.norm(dim=1)
    scale = 1 / length.clamp_min(LEAST_UNIT * length.median())
    gradient = layer.gradient(update)
    basis, values = _columns(gradient * scale[:, None])
    rank = min(_rank(values, precision), individuals)
    return Space(
        gradient=gradient,
        scale=scale,
        basis=basis[:, :rank],
        values=values[:rank],
        noise=float(values[rank]) if rank < len(values) else 0.0,
        residuals=residuals,
        directions=directions * scale[:, None],
    )


def guesses_of(layer: HiddenLayer, features: Tensor, labels: Tensor) -> Guesses:
    """Return how individuals of D_aux would enter a gradient.

    Args:
        features: shape (n, d).
        labels: shape (n,); where they are not known (−1) they are drawn.
    """
    before, probabilities = layer.forward(features.double())
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randint(probabilities.shape[1], labels.shape, generator=draw).to(labels.device)
    known = torch.where(labels < 0, drawn, labels)
    own = functional.one_hot(known, probabilities.shape[1])
    return Guesses(masks=before > 0, residuals=(probabilities - own).float())


def individuals_of(layer: HiddenLayer, space: Space, columns: Tensor, individuals: int) -> Demixed:
    """Return who stands behind columns, and how far each is to be believed.

    A unit that an individual all but does not activate may fall on either side: it is left out of
    the comparison.

    Args:
        columns: x_i up to a factor, rows scaled, shape (m, n).
    """
    count, width = columns.shape[1], space.gradient.shape[1]
    if not count:
        nothing = columns.new_empty(0)
        nobody = nothing.bool()
        return Demixed(columns.new_empty(0, width - 1), nothing.long(), nothing, nobody, nobody)
    unscaled = columns / space.scale[:, None]
    features = torch.linalg.lstsq(unscaled, space.gradient).solution
    factor = features[:, -1:]
    # Without a factor there is no feature, and the mismatch will say so.
    features = features[:, :-1] / torch.where(factor == 0, 1.0, factor)
    before, probabilities = layer.forward(features)
    sure = before.abs() > UNSURE * before.abs().mean(1, keepdim=True)
    classes = torch.eye(probabilities.shape[1], dtype=features.dtype, device=features.device)
    residuals = (probabilities[:, None] - classes) / individuals
    made = (residuals @ layer.output_weight) * (before > 0)[:, None]
    wrong = (made - (unscaled * factor.T).T[:, None]) * sure[:, None]
    mismatch, labels = (wrong.norm(dim=2) / made.norm(dim=2).clamp_min(TINY)).min(1)
    # In an order that does not depend on the search.
    order = made[torch.arange(count), labels].norm(dim=1).argsort(descending=True)
    blur = BLUR * space.blur(columns)
    certain = mismatch < CERTAIN + blur.clamp_max(MOST_BLUR)
    complete = count == space.rank and bool((mismatch < CERTAIN).all())
    certified = (mismatch < (CERTIFIED + blur).clamp_max(CERTAIN / 2)) & complete
    return Demixed(features, labels, mismatch, certain, certified)[order]


def _columns(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Return left singular vectors and singular values."""
    left, values, _ = torch.linalg.svd(matrix, full_matrices=False)
    return left, values


def _rank(values: Tensor, precision: float) -> int:
    """Return how many singular values stand out of the rounding."""
    return max(1, int((values > ROUNDING * precision * values[0]).sum()))


ROUNDING = 8.0
"""Singular values of rounding are below this many units of the last place of the largest."""

LEAST_UNIT = 0.1
"""A unit's row is scaled up as if its direction had at least this length, of the median's."""

CERTAIN = 1e-2
"""Relative mismatch below which an individual counts as found: one unit of a thousand on the wrong
side makes three times as much."""

MOST_BLUR = 0.3
"""Of which noise may be the cause; somebody wrong is off by more."""

CERTIFIED = 1e-3
"""Relative mismatch that rounding may make."""

BLUR = 10.0
"""How often the blur by noise is added to what rounding may make."""

UNSURE = 1e-3
"""Pre-activations below this, relative to the mean of an individual's, may have either sign."""

TINY = 1e-12
