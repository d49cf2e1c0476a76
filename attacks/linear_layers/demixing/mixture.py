"""The gradient of a layer as a mixture of individuals, and who stands behind its parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.activations import Rectifier
from leakbench.attacks.linear_layers.demixing.sent import Sent
from leakbench.attacks.linear_layers.head import Head


@dataclass(frozen=True, kw_only=True)
class Space:
    """Where the x_i and the [h_i, 1] of one victim batch lie. Rows are scaled.

    Attributes:
        individuals: B.
        gradient: G of the first layer, rows scaled, shape (m, d + 1).
        scale: of the rows, shape (m,).
        basis: U of the column space of the scaled G, orthonormal, shape (m, rank).
        values: singular values of the scaled G, shape (rank,).
        rows: V of its row space, orthonormal, shape (d + 1, rank).
        noise: the next singular value: what is not individuals'.
        guessed: whether a part of the features is, so that z is not exact.
    """

    individuals: int
    gradient: Tensor
    scale: Tensor
    basis: Tensor
    values: Tensor
    rows: Tensor
    noise: float
    guessed: bool = False

    @property
    def rank(self) -> int:
        """Of the gradient: how many individuals can be told apart in it."""
        return self.basis.shape[1]

    @property
    def units(self) -> int:
        """How many of the m anybody activates."""
        return int((self.gradient != 0).any(1).sum())

    def distance(self, errors: Tensor) -> Tensor:
        """Return how far x (…, m), rows scaled, are from the column space, relative, shape (…).

        Infinite where somebody is so sure of the label that nothing of x is left but rounding.
        """
        outside = errors - (errors @ self.basis) @ self.basis.mT
        length = errors.norm(dim=-1)
        negligible = length < NEGLIGIBLE * sqrt(errors.shape[-1])
        return torch.where(negligible, torch.inf, outside.norm(dim=-1) / length.clamp_min(TINY))

    def blur(self, vectors: Tensor) -> Tensor:
        """Return how far noise may move vectors of the space, shape (m, n), relative, shape (n,).

        Who adds little to the gradient is found where the noise moves the space the most.
        """
        coordinates = self.basis.mT @ vectors / self.values[:, None]
        moved: Tensor = self.noise * coordinates.norm(dim=0) / vectors.norm(dim=0).clamp_min(TINY)
        return moved


@dataclass(frozen=True)
class Others:
    """Individuals of D_aux at the layer in question, from whom searches start.

    Attributes:
        features: h, shape (n, d).
        labels: shape (n,); drawn where they are not known.
        z: of the first layer, shape (n, m).
        residuals: p − e_y, shape (n, K).
    """

    features: Tensor
    labels: Tensor
    z: Tensor
    residuals: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def seen(self, columns: Tensor) -> Others:
        """Return them with only some entries of their features."""
        return replace(self, features=self.features[:, columns])


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
        length: of the x, shape (n,).
    """

    features: Tensor
    labels: Tensor
    mismatch: Tensor
    certain: Tensor
    certified: Tensor
    length: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, rows: Tensor) -> Demixed:
        return Demixed(
            features=self.features[rows],
            labels=self.labels[rows],
            mismatch=self.mismatch[rows],
            certain=self.certain[rows],
            certified=self.certified[rows],
            length=self.length[rows],
        )

    def in_order(self) -> Demixed:
        """Return them in an order that does not depend on the search."""
        return self[self.length.argsort(descending=True)]

    @property
    def worth(self) -> tuple[int, int]:
        """How many are certain, and certified."""
        return int(self.certain.sum()), int(self.certified.sum())


def space_of(received: Sent, individuals: int, scale: Tensor, precision: float) -> Space:
    """Return where the x_i and h_i of a gradient lie.

    The rank is that which stands out of rounding.

    Args:
        received: the gradient of [W, b], finite; columns that are not known are left out.
        scale: of the rows, shape (m,); those that are not known are left out.
        precision: the unit of the last place of the update's numbers.
    """
    scale = torch.where(received.rows, scale, 0.0)
    known = functional.pad(received.columns, (0, 1), value=True)
    gradient = received.gradient[:, known] * scale[:, None]
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    rank = min(rank_of(values, precision), individuals)
    return Space(
        individuals=individuals,
        gradient=gradient,
        scale=scale,
        basis=left[:, :rank],
        values=values[:rank],
        rows=right[:rank].mT,
        noise=max(
            float(values[rank]) if rank < len(values) else 0.0,
            # Of a completed gradient the rest is gone; what entries are off by tells of it.
            received.misfit * float(scale.square().mean().sqrt()) * sum(map(sqrt, gradient.shape)),
        ),
        guessed=not bool(received.columns.all()),
    )


def precision_of(head: Head, update: Mapping[str, Tensor]) -> float:
    """Return the unit of the last place of an update's numbers."""
    return torch.finfo(update[head.first.names[0]].dtype).eps


def rank_of(values: Tensor, precision: float) -> int:
    """Return how many singular values stand out of the rounding."""
    return max(1, int((values > ROUNDING * precision * values[0]).sum()))


def others_of(head: Head, features: Tensor, labels: Tensor) -> Others:
    """Return individuals of D_aux as the first layer sees them.

    Args:
        features: shape (n, d).
        labels: shape (n,); where they are not known (−1) they are drawn.
    """
    device = head.first.weight.device
    features, labels = features.to(device).double(), labels.to(device)
    z, probabilities = head.forward(features)
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randint(head.classes, labels.shape, generator=draw).to(device)
    known = torch.where(labels < 0, drawn, labels)
    own = functional.one_hot(known, head.classes)
    return Others(features.float(), known, z.float(), (probabilities - own).float())


def individuals_of(head: Head, space: Space, columns: Tensor) -> Demixed:
    """Return who stands behind columns, and how far each is to be believed.

    A unit that an individual all but does not activate may fall on either side of a kink: it is
    left out of the comparison. The length of all x together is not compared, which clients may have
    changed.

    Args:
        columns: x_i up to a factor, rows scaled, shape (m, n).
    """
    if not columns.shape[1]:
        return nobody(head)
    inverse = torch.linalg.pinv(columns)
    extended = inverse @ space.gradient
    factor = extended[:, -1:]
    # Without a factor there is no feature, and the mismatch will say so.
    features = extended[:, :-1] / torch.where(factor == 0, 1.0, factor)
    # What each would make with each label, shape (n, K, m), and what was found.
    z = head.first.forward(features)
    sure = _sure(head, z)
    classes = torch.eye(head.classes, dtype=z.dtype, device=z.device)
    x = (columns * factor.mT).mT * sure
    length = x.norm(dim=1).clamp_min(TINY)
    ratios, wrongs = [], []
    together = max(1, AT_ONCE // (head.classes * z.shape[1]))
    for some in torch.split(torch.arange(len(z)), together):
        made = head.errors(z[some, None], classes) * space.scale * sure[some, None]
        ratios.append(made.norm(dim=2) / length[some, None])
        found = (x[some] / length[some, None])[:, None]
        wrongs.append((functional.normalize(made, dim=2) - found).norm(dim=2))
    mismatch, labels = torch.cat(wrongs).min(1)
    ratio = torch.cat(ratios).gather(1, labels[:, None]).squeeze(1)

    blur = BLUR * space.blur(columns)
    moved = space.noise * inverse.norm(dim=1) / extended.norm(dim=1).clamp_min(TINY)
    rounding = (ROUNDED + blur).clamp_max(CERTAIN / 2)
    # Of a smaller rank two may be behind one x, and only their mean comes out.
    whole = columns.shape[1] == space.rank == space.individuals
    whole = whole and bool((mismatch < CERTAIN).all())
    same_length = (ratio / ratio.median() - 1).abs() < 2 * rounding
    certified = (mismatch < rounding) & same_length & (moved < CERTAIN) & whole
    if len(head.layers) == 1:
        # x says little of h where classes are few: all that is not individuals' must be rounding.
        certified &= (blur < SOLVED) & (spare_equations(head, space) >= SPARE_EQUATIONS)
    certain = mismatch < CERTAIN + blur.clamp_max(MOST_BLUR)
    if space.guessed:
        # The x tell that they are right, their features cannot.
        certain = torch.full_like(certain, columns.shape[1] == space.rank)
        certified = torch.zeros_like(certain)
    return Demixed(features, labels, mismatch, certain, certified, length)


def spare_equations(head: Head, space: Space) -> int:
    """Return how many more equations there are than unknowns for one individual's h."""
    # The K errors of an output layer add up to 0.
    units = space.units - (len(head.layers) == 1)
    return units - space.rank - (space.rank - 1)


def individuals_alone(head: Head, space: Space, features: Tensor) -> Demixed:
    """Return individuals whose features are known, whoever else is in the batch.

    They are certain where the equations outnumber the unknowns by far, and certified if all there
    is beside individuals is rounding.

    Args:
        features: h, with [h, 1] in the row space, shape (n, d).
    """
    z, _ = head.forward(features)
    classes = torch.eye(head.classes, dtype=z.dtype, device=z.device)
    made = head.errors(z[:, None], classes) * space.scale
    mismatch, labels = space.distance(made).min(1)
    x = made[torch.arange(len(labels)), labels]
    blur = BLUR * space.blur(x.mT)
    spare = spare_equations(head, space) >= SPARE_UNITS
    certain = (mismatch < SOLVED + blur.clamp_max(MOST_BLUR)) & spare
    whole = space.rank == space.individuals
    certified = certain & (mismatch < SOLVED) & (blur < SOLVED) & whole
    return Demixed(features, labels, mismatch, certain, certified, x.norm(dim=1))


def nobody(head: Head) -> Demixed:
    """Return what is found where nothing is."""
    none = head.first.weight.new_empty(0)
    no = none.bool()
    features = none.new_empty(0, head.first.weight.shape[1])
    return Demixed(features, none.long(), none, no, no, none)


def _sure(head: Head, z: Tensor) -> Tensor:
    """Return where rounding cannot put z, shape (n, m), on the other side of a kink."""
    if not isinstance(head.first.activation, Rectifier):
        return torch.ones_like(z, dtype=torch.bool)
    return z.abs() > UNSURE * z.abs().mean(1, keepdim=True)


ROUNDING = 8.0
"""Singular values of rounding are below this many units of the last place of the largest."""

SPARE_EQUATIONS = 2
"""More than unknowns."""

SPARE_UNITS = 10
"""Units that are left to tell vectors apart by."""

CERTAIN = 1e-2
"""Relative mismatch below which an individual counts as found: one unit of a thousand on the wrong
side makes three times as much."""

MOST_BLUR = 0.3
"""Of which noise may be the cause; somebody wrong is off by more."""

ROUNDED = 1e-3
"""Relative mismatch that rounding may make."""

SOLVED = 1e-5
"""Relative distance from the space at which the x of a known h is taken for an individual's."""

BLUR = 10.0
"""How often the blur by noise is added to what rounding may make."""

UNSURE = 1e-3
"""Pre-activations below this, relative to the mean of an individual's, may have either sign."""

AT_ONCE = 2**24
"""Numbers of what individuals would make with each label that are held at once."""

NEGLIGIBLE = 1e-6
"""An x of less than this is rounding; rows are scaled to about 1."""

TINY = 1e-12
"""Below this a length is none."""
