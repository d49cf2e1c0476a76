"""How far an update's noise may move the features that are recovered from it.

A certificate says that a feature is exact beside the differences between people. Where a network's
features are nearly the same for everybody, as those of untrained deep networks are, an error that
is small beside the feature is large beside these differences.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.convolutional_ends.gradient import PositionGradient
from leakbench.attacks.convolutional_ends.masked_vectors import TINY


def preactivation_errors(
    gradient: PositionGradient, z: Tensor, amplified: Tensor, missing: Tensor
) -> Tensor:
    """Return standard errors of z = W a + b, shape (m, n).

    With [a, 1] = w G / f for weights w and f = w G's last entry, noise E of the gradient moves z of
    channel c by w E (W_c − z_c e) / f, e being the last unit vector. What E is like is seen where
    no individual is, outside both spaces of G.

    Args:
        z: shape (m, n).
        amplified: length of w, over |f|, shape (n,).
        missing: relative distance by which positions that are not found may move a, shape (n,).
    """
    along, entry = gradient.noise_along_weights
    noise = (along[:, None].square() + (entry * z).square()).sqrt() * amplified
    # They move z towards their own, which is as far as others of D_aux are.
    others = MISSING * gradient.deviations[:, None] * missing
    return (noise.square() + others.square()).sqrt()


def entry_errors(
    gradient: PositionGradient, inputs: Tensor, amplified: Tensor, missing: Tensor
) -> Tensor:
    """Return how far noise may move the entries of a, shape (n,).

    Args:
        inputs: a, shape (n, d).
        amplified, missing: as above, shape (n,).
    """
    _, entry = gradient.noise_along_weights
    largest = functional.pad(inputs.abs().amax(1, keepdim=True), (0, 1), value=1.0).norm(dim=1)
    length = functional.pad(inputs, (0, 1), value=1.0).norm(dim=1)
    moved: Tensor = ENTRIES * entry * amplified * largest + missing * length
    return moved


def feature_errors(
    gradient: PositionGradient, features: Tensor, z: Tensor, errors: Tensor
) -> Tensor:
    """Return errors of features beside how they differ from the mean of D_aux, shape (n,).

    Channels are standardised by D_aux. Errors of an individual's positions are taken as if they
    were all of the same sign.

    Args:
        features: shape (n, m).
        z: of their positions, one individual after another, shape (m, n · P).
        errors: standard errors of z, same shape.
    """
    activation = gradient.end.activation
    # A channel whose z is near a kink may pass it.
    near = activation.from_kinks(z) < NEAR * errors
    slopes = activation.derivative(activation.active(z)).abs()
    slopes = torch.where(
        near, slopes.clamp_min(1.0).maximum(activation.slope.abs()[:, None]), slopes
    )
    moved = (slopes * errors).reshape(len(z), -1, gradient.end.positions).mean(2).mT
    standardise = gradient.standardise
    length = standardise(features).norm(dim=1).clamp_min(TINY)
    share: Tensor = (moved / standardise.deviation).norm(dim=1) / length
    return share


ENTRIES = 3.0
"""Standard errors within which entries of a are."""

MISSING = 3.0
"""How many deviations of D_aux's z that of an individual that is not found may be from others'."""

NEAR = 3.0
"""Standard errors from a kink within which it may be passed."""
