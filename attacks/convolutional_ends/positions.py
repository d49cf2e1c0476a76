"""From the errors of single positions to individuals, with certificates."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.convolutional_ends.end import ConvolutionalEnd
from leakbench.attacks.convolutional_ends.feature_errors import (
    entry_errors,
    feature_errors,
    preactivation_errors,
)
from leakbench.attacks.convolutional_ends.found import FoundColumns
from leakbench.attacks.convolutional_ends.gradient import PositionGradient
from leakbench.attacks.convolutional_ends.grouping import groups_of
from leakbench.attacks.convolutional_ends.masked_vectors import TINY
from leakbench.attacks.convolutional_ends.shortcut import shortcut_of
from leakbench.attacks.linear_layers.demixing.recovered import (
    CERTAIN,
    MOST_NOISE,
    NOISE_MARGIN,
    ROUNDED,
    SHARP,
    UNSURE,
    RecoveredIndividuals,
)


@dataclass(frozen=True)
class Positions:
    """Positions of individuals of one victim batch.

    Attributes:
        z: before the activation, shape (m, n).
        residuals: r of the individual that each belongs to, up to rounding, shape (n, K).
        mismatch: relative distance between the x that is found and that which z and r make, (n,).
        noise: relative distance by which the update's noise may move x, shape (n,).
        moved: relative distance by which it may move a, shape (n,).
        errors: standard errors of z, shape (m, n).
    """

    z: Tensor
    residuals: Tensor
    mismatch: Tensor
    noise: Tensor
    moved: Tensor
    errors: Tensor


def no_individuals(end: ConvolutionalEnd) -> RecoveredIndividuals:
    """Return no individuals."""
    none = end.output.bias.new_empty(0)
    features = none.new_empty(0, len(end.convolution.bias))
    return RecoveredIndividuals(features, none.long(), none, none.bool(), none.bool(), none)


def recovered_individuals(gradient: PositionGradient, found: FoundColumns) -> RecoveredIndividuals:
    """Return the individuals behind the x of positions of a batch.

    Least squares gives every position's [a, 1] up to a factor, which its last entry removes. Then
    everything that is known is compared:

    1. z = W a + b, and what a shortcut adds, must make the mask of x, position by position;
    2. P positions must share one r, apart from the others;
    3. their average runs through the output layer: p − e_y must be B r, for some label y, but for
       the same factor for all individuals, as clients may have clipped the update;
    4. all individuals together must make the output layer's gradient.

    Who meets all of this, up to rounding, is certified. Positions that are not found change the
    others by as much as the update's noise may: where they are of individuals of whose label the
    model is sure, by hardly anything.
    """
    # More than the rank: noise also fits masks that belong to no individual.
    if not 0 < len(found) <= gradient.space.rank:
        return no_individuals(gradient.end)
    positions = _positions(gradient, found)
    if positions is None:
        return no_individuals(gradient.end)
    groups = groups_of(positions.residuals, gradient.end.positions)
    if not len(groups):
        return no_individuals(gradient.end)
    return _individuals(gradient, positions, groups)


def _positions(gradient: PositionGradient, found: FoundColumns) -> Positions | None:
    """Return the positions whose x are columns, as many as the space's rank.

    None where the gradients do not tell what a shortcut adds.
    """
    end, space = gradient.end, gradient.space
    inverse = torch.linalg.pinv(found.vectors)
    extended = inverse @ space.gradient
    factor = extended[:, -1:]
    # Without a factor there is no a, and the mismatch will say so.
    inputs = extended[:, :-1] / torch.where(factor == 0, 1.0, factor)
    x = found.vectors * factor.mT
    masked = (end.activation.derivative(found.active).mT[:, :, None]) * gradient.directions
    coordinates = torch.linalg.lstsq(masked, x.mT[:, :, None]).solution[:, :, 0]
    z = end.convolution.z(inputs)
    shares = inverse.norm(dim=1) / extended.norm(dim=1).clamp_min(TINY)
    moved = gradient.unexplained(found.vectors) * shares
    missing = moved if len(found) < space.rank else torch.zeros_like(moved)
    amplified = inverse.norm(dim=1) / factor[:, 0].abs().clamp_min(TINY)
    errors = preactivation_errors(gradient, z, amplified, missing)
    if end.has_shortcut:
        added = shortcut_of(
            end,
            gradient.update,
            inputs,
            _unscaled(x, space.scale),
            entry_errors(gradient, inputs, amplified, missing),
        )
        if added is None:
            return None
        z = z + added.values
        errors = (errors.square() + added.error.square()).sqrt()
    unsure = torch.maximum(UNSURE * z.abs().mean(0), DEVIATIONS * errors)
    sure = end.activation.from_kinks(z) > unsure
    direction = gradient.directions @ coordinates.mT
    made = end.activation.derivative(end.activation.active(z)) * direction
    outside = torch.where(sure, made - x, 0.0).norm(dim=0)
    length = torch.where(sure, x, 0.0).norm(dim=0)
    return Positions(
        z=z,
        residuals=end.positions * coordinates @ gradient.residuals.mT,
        mismatch=outside / length.clamp_min(TINY),
        noise=NOISE_MARGIN * space.noise_sensitivity(found.vectors),
        moved=moved,
        errors=errors,
    )


def _unscaled(x: Tensor, scale: Tensor) -> Tensor:
    """Return x without the scale of its rows; 0 where they are not known."""
    known = scale[:, None] > 0
    return torch.where(known, x / torch.where(known, scale[:, None], 1.0), 0.0)


def _individuals(
    gradient: PositionGradient, positions: Positions, groups: Tensor
) -> RecoveredIndividuals:
    """Return the individuals of groups of positions, numbers of shape (n, P)."""
    end = gradient.end
    of_groups = groups.flatten()
    features = end.pooled(positions.z[:, of_groups])
    blurred = feature_errors(
        gradient, features, positions.z[:, of_groups], positions.errors[:, of_groups]
    )
    residuals = positions.residuals[groups].mean(1)
    # B r, but for a common factor, against p − e_y of every label.
    errors = end.probabilities(features)[:, None] - torch.eye(end.classes).to(features)
    length = errors.norm(dim=2).clamp_min(TINY)
    sent = gradient.individuals * residuals.norm(dim=1, keepdim=True)
    same = functional.normalize(residuals, dim=1)[:, None]
    apart = (errors / length[..., None] - same).norm(dim=2)
    ratios = sent / length
    direction, labels = apart.min(1)
    ratio = ratios.gather(1, labels[:, None]).squeeze(1)
    noise = positions.noise[groups].amax(1)
    moved = positions.moved[groups].amax(1)
    rounding = (ROUNDED + noise).clamp_max(CERTAIN / 2)
    off = (ratio / ratio.median() - 1).abs()
    mismatch = torch.maximum(positions.mismatch[groups].amax(1), direction)
    made = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
    unexplained = (residuals.mT @ made - gradient.output).norm() / gradient.output.norm()
    explained = bool(unexplained < rounding.min())
    # Where the rank is smaller, several individuals may share all x, and only their mean is found:
    # then their r is the sum of all, or an individual has none.
    whole = gradient.space.rank == gradient.individuals * end.positions
    explained &= whole or bool((ratio.median() - 1).abs() < 2 * rounding.min())
    certified = (mismatch < rounding) & (off < 2 * rounding) & explained
    certified &= (moved < CERTAIN) & (blurred < SHARP)
    certain = (mismatch < CERTAIN + noise.clamp_max(MOST_NOISE)) & (off < 2 * CERTAIN + noise)
    # Masks do not show how exact an a is of a part of a batch, or what a shortcut adds.
    shown = len(positions.mismatch) == gradient.space.rank and not end.has_shortcut
    certain &= (blurred < CLEAR) & (shown | (moved < CERTAIN))
    return RecoveredIndividuals(features, labels, mismatch, certain, certified, sent[:, 0])


DEVIATIONS = 6.0
"""How many times its error z must be from a kink to be on a known side."""

CLEAR = 0.1
"""Largest such error of who counts as found: the standardised cosine is above 0.995."""
