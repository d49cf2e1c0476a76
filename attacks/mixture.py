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
        individuals: B.
        gradient: G, rows scaled, shape (m, d + 1).
        scale: of the rows, shape (m,).
        basis: U of the column space of the scaled G, orthonormal, shape (m, rank).
        values: singular values of the scaled G, shape (rank,).
        noise: the next one: what is not individuals'.
        residuals: Q of the space of the r_i, orthonormal, shape (K, q).
        directions: W_oᵀ Q, rows scaled, shape (m, q).
    """

    individuals: int
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

    @property
    def tells_apart(self) -> bool:
        """Whether other vectors than individuals' are kept out: by all units but these."""
        units = int((self.basis != 0).any(1).sum())
        return self.rank + self.directions.shape[1] + SPARE_UNITS < units

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
        mismatch: how far the direction of what h makes of the layer is from that of the x that was
            found, shape (n,).
        certain: for whom that is no more than the update's noise explains, shape (n,).
        certified: whose feature is exact: the mismatch is rounding, so is that of x's length, the
            update's noise moves the feature by less than 1 %, and the batch is found whole, for one
            wrong x takes its part of all the h. Shape (n,).
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

    Args:
        update: finite.
    """
    precision = torch.finfo(update[layer.names[0]].dtype).eps
    outer, outer_values = _columns(layer.output_gradient(update))
    classes = len(layer.output_bias)
    residuals = outer[:, : min(_rank(outer_values, precision), individuals, classes - 1)]
    directions = layer.output_weight.T @ residuals
    length = directions.norm(dim=1)
    scale = 1 / length.clamp_min(LEAST_UNIT * length.median())
    gradient = layer.gradient(update) * scale[:, None]
    basis, values = _columns(gradient)
    rank = min(_rank(values, precision), individuals)
    return Space(
        individuals=individuals,
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
    device = layer.weight.device
    features, labels = features.to(device), labels.to(device)
    before, probabilities = layer.forward(features.double())
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randint(probabilities.shape[1], labels.shape, generator=draw).to(device)
    known = torch.where(labels < 0, drawn, labels)
    own = functional.one_hot(known, probabilities.shape[1])
    return Guesses(masks=before > 0, residuals=(probabilities - own).float())


def individuals_of(layer: HiddenLayer, space: Space, columns: Tensor) -> Demixed:
    """Return who stands behind columns, and how far each is to be believed.

    A unit that an individual all but does not activate may fall on either side: it is left out of
    the comparison. The length of all x together is not compared, which clients may have changed.

    Args:
        columns: x_i up to a factor, rows scaled, shape (m, n).
    """
    if not columns.shape[1]:
        return nobody(layer)
    inverse = torch.linalg.pinv(columns)
    extended = inverse @ space.gradient
    factor = extended[:, -1:]
    # Without a factor there is no feature, and the mismatch will say so.
    features = extended[:, :-1] / torch.where(factor == 0, 1.0, factor)
    before, probabilities = layer.forward(features)
    sure = before.abs() > UNSURE * before.abs().mean(1, keepdim=True)
    classes = torch.eye(probabilities.shape[1], dtype=features.dtype, device=features.device)
    residuals = (probabilities[:, None] - classes) / space.individuals
    # What each would make with each label, shape (n, K, m), and what was found.
    made = (residuals @ layer.output_weight) * ((before > 0) & sure)[:, None] * space.scale
    x = (columns * factor.mT).mT * sure
    length = x.norm(dim=1).clamp_min(TINY)
    ratio = made.norm(dim=2) / length[:, None]
    wrong = functional.normalize(made, dim=2) - (x / length[:, None])[:, None]
    mismatch, labels = wrong.norm(dim=2).min(1)
    ratio = ratio.gather(1, labels[:, None]).squeeze(1)

    blur = BLUR * space.blur(columns)
    moved = space.noise * inverse.norm(dim=1) / extended.norm(dim=1).clamp_min(TINY)
    rounding = (ROUNDED + blur).clamp_max(CERTAIN / 2)
    whole = columns.shape[1] == space.rank and bool((mismatch < CERTAIN).all())
    same_length = (ratio / ratio.median() - 1).abs() < 2 * rounding
    certified = (mismatch < rounding) & same_length & (moved < CERTAIN) & whole
    certain = mismatch < CERTAIN + blur.clamp_max(MOST_BLUR)
    # In an order that does not depend on the search.
    order = length.argsort(descending=True)
    return Demixed(features, labels, mismatch, certain, certified)[order]


def nobody(layer: HiddenLayer) -> Demixed:
    """Return what is found where nothing is."""
    none = layer.weight.new_empty(0)
    no = none.bool()
    return Demixed(none.new_empty(0, layer.weight.shape[1]), none.long(), none, no, no)


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

SPARE_UNITS = 10
"""Units that are left to tell vectors apart by."""

CERTAIN = 1e-2
"""Relative mismatch below which an individual counts as found: one unit of a thousand on the wrong
side makes three times as much."""

MOST_BLUR = 0.3
"""Of which noise may be the cause; somebody wrong is off by more."""

ROUNDED = 1e-3
"""Relative mismatch that rounding may make."""

BLUR = 10.0
"""How often the blur by noise is added to what rounding may make."""

UNSURE = 1e-3
"""Pre-activations below this, relative to the mean of an individual's, may have either sign."""

TINY = 1e-12
