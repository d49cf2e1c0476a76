"""How far an update's noise may move the features of tokens that are found in it.

A token solves m − B equations. What they leave tells the noise in one of them, and their
derivatives how far that moves the solution. Where features are nearly the same for everybody, an
error that is small beside a feature is large beside the differences between people.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.deflated_subspace import deflated_subspace
from leakbench.attacks.linear_layers.demixing.gradient_space import TINY
from leakbench.attacks.token_ends.search import FoundTokens, TokenGradient
from leakbench.metrics.standardisation import Standardisation


def feature_errors(
    gradient: TokenGradient,
    found: FoundTokens,
    features_of: Callable[[Tensor, Tensor], Tensor],
    standardise: Standardisation,
) -> Tensor:
    """Return the largest error of features in a few draws of the noise, shape (n,).

    Errors are relative to how a feature differs from the mean of D_aux, channels standardised.

    Args:
        features_of: h and δ of the tokens (n, d) → their features (n, d).
        standardise: by D_aux's features.
    """
    h, deltas = found.extended[:, :-1], found.deltas
    features = standardise(features_of(h, deltas))
    length = features.norm(dim=1).clamp_min(TINY)
    draw = torch.Generator().manual_seed(0)
    factors = [_factor(gradient, found, token) for token in range(len(found))]
    largest = torch.zeros_like(length)
    for _ in range(DRAWS):
        moves = [_drawn(gradient, found, token, factors[token], draw) for token in range(len(h))]
        moved = [torch.stack(each) for each in zip(*moves, strict=True)]
        other = standardise(features_of(h + moved[0], deltas + moved[1]))
        largest = torch.maximum(largest, (other - features).norm(dim=1) / length)
    return largest


def _factor(gradient: TokenGradient, found: FoundTokens, token: int) -> tuple[Tensor, Tensor]:
    """Return by what independent numbers of variance 1 are multiplied to make moves of a token.

    Returns:
        Of its a, within those whose last entry stays 1, shape (rank, k), and of its δ, (d, k).
    """
    space, own = gradient.space, gradient
    tangents = deflated_subspace(space, found.x[:0].mT).directions.mT
    delta = found.deltas[token]
    length = delta.norm().clamp_min(TINY)
    c = own.errors.mT @ delta / length
    turns = torch.linalg.svd(c[None])[2][1:].mT
    h = found.extended[token, :-1]
    z = own.end.first.forward(h[None])[0]
    layer = own.end.first.extended() @ space.rows @ tangents
    back = own.directions @ c
    curvature = own.end.activation.second_derivative(z, None)
    derivative = own.end.activation.derivative(z)
    x = derivative * back
    changes = [(curvature * back)[:, None] * layer, derivative[:, None] * (own.directions @ turns)]
    change = torch.cat(changes, dim=1) / x.norm().clamp_min(TINY)
    direction = functional.normalize(x, dim=0)
    for known in (direction[:, None], space.basis):
        change = change - known @ (known.mT @ change)
    spare = max(1, space.units - space.rank - change.shape[1])
    noise = max(float(found.distances[token]) / spare**0.5, _equation_noise(gradient, x))
    moves = noise * torch.linalg.pinv(change)
    # Only the covariance matters: M Mᵀ = (M' M'ᵀ) with fewer columns.
    left, values, _ = torch.linalg.svd(moves, full_matrices=False)
    moves = left * values
    width = tangents.shape[1]
    return tangents @ moves[:width], length * (own.errors @ turns @ moves[width:])


def _equation_noise(gradient: TokenGradient, x: Tensor) -> float:
    """Return the deviation of one entry of x, relative to its length, that noise makes."""
    weights = (gradient.space.basis.mT @ x) / gradient.space.values
    return gradient.entry_noise * float(weights.norm() / x.norm().clamp_min(TINY))


def _drawn(
    gradient: TokenGradient,
    found: FoundTokens,
    token: int,
    factor: tuple[Tensor, Tensor],
    draw: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Return a move of h, shape (d,), and of δ, shape (d,)."""
    space = gradient.space
    numbers = torch.randn(factor[0].shape[1], generator=draw, dtype=torch.float64)
    extended = found.extended[token]
    # The row space itself is as exact as the noise lets it be.
    away = gradient.entry_noise * float((space.rows.mT @ extended / space.values).norm())
    outside = away * torch.randn(len(extended) - 1, generator=draw, dtype=torch.float64)
    return (space.rows @ (factor[0] @ numbers))[:-1] + outside, factor[1] @ numbers


DRAWS = 8
"""Draws of the noise."""
