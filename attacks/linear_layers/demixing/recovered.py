"""The individuals behind parts of a gradient, and how certain they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.activations import Rectifier
from leakbench.attacks.linear_layers.demixing.gradient_space import TINY, GradientSpace
from leakbench.attacks.linear_layers.head import Head


@dataclass(frozen=True)
class RecoveredIndividuals:
    """Individuals recovered from one victim batch, n ≤ B.

    Attributes:
        features: h, shape (n, d).
        labels: main-task classes, shape (n,).
        mismatch: distance between the directions of the x that h makes and of the x that was found,
            shape (n,).
        certain: whether the update's noise explains the mismatch, shape (n,).
        certified: whether the feature is exact: the mismatch is rounding, so is that of x's length,
            the update's noise moves the feature by less than 1 %, and the whole batch is found, as
            one wrong x changes all h. Shape (n,).
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

    def __getitem__(self, rows: Tensor) -> RecoveredIndividuals:
        return RecoveredIndividuals(
            features=self.features[rows],
            labels=self.labels[rows],
            mismatch=self.mismatch[rows],
            certain=self.certain[rows],
            certified=self.certified[rows],
            length=self.length[rows],
        )

    def in_order(self) -> RecoveredIndividuals:
        """Return them in an order that does not depend on the search."""
        return self[self.length.argsort(descending=True)]

    @property
    def score(self) -> tuple[int, int]:
        """How many are certain, and how many certified."""
        return int(self.certain.sum()), int(self.certified.sum())


def recovered_from_columns(
    head: Head, space: GradientSpace, columns: Tensor
) -> RecoveredIndividuals:
    """Return the individuals behind columns X = [x_1 … x_n]: [h_i, 1] = (X⁺ G)_i up to scale.

    Each h is checked: it runs through the layers and must make its x again. Units whose z is near a
    kink are left out of the comparison. The common length of all x is not compared, as clients may
    have changed it.

    Args:
        columns: x_i up to a factor, rows scaled, shape (m, n).
    """
    if not columns.shape[1]:
        return none_recovered(head)
    inverse = torch.linalg.pinv(columns)
    extended = inverse @ space.gradient
    factor = extended[:, -1:]
    # Without a factor there is no feature, and the mismatch will say so.
    features = extended[:, :-1] / torch.where(factor == 0, 1.0, factor)
    # The x that each h makes with each label, shape (n, K, m), against the x that was found.
    z = head.first.forward(features)
    sure = _off_kinks(head, z)
    classes = head.targets
    x = (columns * factor.mT).mT * sure
    length = x.norm(dim=1).clamp_min(TINY)
    ratios, mismatches = [], []
    together = max(1, AT_ONCE // (head.classes * z.shape[1]))
    for some in torch.split(torch.arange(len(z)), together):
        made = head.errors(z[some, None], classes) * space.scale * sure[some, None]
        ratios.append(made.norm(dim=2) / length[some, None])
        found = (x[some] / length[some, None])[:, None]
        mismatches.append((functional.normalize(made, dim=2) - found).norm(dim=2))
    mismatch, labels = torch.cat(mismatches).min(1)
    ratio = torch.cat(ratios).gather(1, labels[:, None]).squeeze(1)

    noise = NOISE_MARGIN * space.noise_sensitivity(columns)
    moved = space.noise * inverse.norm(dim=1) / extended.norm(dim=1).clamp_min(TINY)
    rounding = (ROUNDED + noise).clamp_max(CERTAIN / 2)
    # Where the rank is smaller, two individuals may share an x, and only their mean is found.
    whole = columns.shape[1] == space.rank == space.individuals
    whole = whole and bool((mismatch < CERTAIN).all())
    same_length = (ratio / ratio.median() - 1).abs() < 2 * rounding
    certified = (mismatch < rounding) & same_length & (moved < CERTAIN) & whole
    if len(head.layers) == 1:
        # With few classes x hardly depends on h: whatever no individual explains must be rounding.
        certified &= (noise < SOLVED) & (spare_equations(head, space) >= SPARE_EQUATIONS)
    certain = mismatch < CERTAIN + noise.clamp_max(MOST_NOISE)
    if space.is_predicted:
        # The x can be checked, the predicted features cannot.
        certain = torch.full_like(certain, columns.shape[1] == space.rank)
        certified = torch.zeros_like(certain)
    return RecoveredIndividuals(features, labels, mismatch, certain, certified, length)


def spare_equations(head: Head, space: GradientSpace) -> int:
    """Return how many more equations there are than unknowns for one individual's h."""
    # The K errors of an output layer add up to 0.
    units = space.units - head.loss.error_dimensions_lost * (len(head.layers) == 1)
    return units - space.rank - (space.rank - 1)


def recovered_from_features(
    head: Head, space: GradientSpace, features: Tensor
) -> RecoveredIndividuals:
    """Return individuals whose features are known, without regard to the rest of the batch.

    They are certain where there are many more equations than unknowns, and certified if whatever no
    individual explains is rounding.

    Args:
        features: h, with [h, 1] in the row space, shape (n, d).
    """
    z, _ = head.forward(features)
    classes = head.targets
    made = head.errors(z[:, None], classes) * space.scale
    mismatch, labels = space.distance(made).min(1)
    x = made[torch.arange(len(labels)), labels]
    noise = NOISE_MARGIN * space.noise_sensitivity(x.mT)
    spare = spare_equations(head, space) >= SPARE_UNITS
    certain = (mismatch < SOLVED + noise.clamp_max(MOST_NOISE)) & spare
    whole = space.rank == space.individuals
    certified = certain & (mismatch < SOLVED) & (noise < SOLVED) & whole
    return RecoveredIndividuals(features, labels, mismatch, certain, certified, x.norm(dim=1))


def none_recovered(head: Head) -> RecoveredIndividuals:
    """Return no individuals."""
    none = head.first.weight.new_empty(0)
    no = none.bool()
    features = none.new_empty(0, head.first.weight.shape[1])
    return RecoveredIndividuals(features, none.long(), none, no, no, none)


def _off_kinks(head: Head, z: Tensor) -> Tensor:
    """Return where z, shape (n, m), is so far from a kink that rounding cannot change its side."""
    if not isinstance(head.first.activation, Rectifier):
        return torch.ones_like(z, dtype=torch.bool)
    return z.abs() > UNSURE * z.abs().mean(1, keepdim=True)


SPARE_EQUATIONS = 2
"""Fewest equations beyond the number of unknowns."""

SPARE_UNITS = 10
"""Fewest units that are left to distinguish vectors."""

CERTAIN = 1e-2
"""Relative mismatch below which an individual counts as found: one unit of a thousand on the wrong
side makes three times as much."""

SHARP = 7e-3
"""Largest error of a certified feature beside how it differs from D_aux's mean, where that is
bounded. Twice as much makes a standardised cosine of 0.9999."""

MOST_NOISE = 0.3
"""Largest mismatch that noise may explain; that of a wrong individual is larger."""

ROUNDED = 1e-3
"""Relative mismatch that rounding may cause."""

SOLVED = 1e-5
"""Relative distance from the space up to which the x of a known h is an individual's."""

NOISE_MARGIN = 10.0
"""Multiple of the noise sensitivity that a mismatch may reach."""

UNSURE = 1e-3
"""Pre-activations below this, relative to the mean of an individual's, may have either sign."""

AT_ONCE = 2**24
"""Numbers of the x of all labels that are held at once."""
