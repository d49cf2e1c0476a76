"""From tokens at the last MLP to individuals' deep features, with certificates."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.gradient_space import TINY
from leakbench.attacks.linear_layers.demixing.recovered import (
    CERTAIN,
    MOST_NOISE,
    NOISE_MARGIN,
    ROUNDED,
    SHARP,
    SOLVED,
    RecoveredIndividuals,
)
from leakbench.attacks.token_ends.end import TokenEnd
from leakbench.attacks.token_ends.feature_errors import feature_errors
from leakbench.attacks.token_ends.search import FoundTokens, TokenGradient
from leakbench.metrics.standardisation import Standardisation


def no_individuals(end: TokenEnd) -> RecoveredIndividuals:
    """Return no individuals."""
    none = end.output.bias.new_empty(0)
    features = none.new_empty(0, end.output.weight.shape[1])
    return RecoveredIndividuals(features, none.long(), none, none.bool(), none.bool(), none)


def recovered_individuals(
    gradient: TokenGradient, found: FoundTokens, starts: Tensor, deviations: Tensor
) -> RecoveredIndividuals:
    """Return the individuals of tokens.

    Where h is LayerNorm(u), u is known but for its deviation: of one number and the label follow
    d numbers of δ, which are known. So the deviation is that at which they agree. Compared is then

    1. x in the column space of the first layer's gradient;
    2. δ_i against that which the feature makes with a label, in direction, and in length but for
       one factor for all individuals, as clients may have clipped the update;
    3. where all are found, the sums of all individuals against the gradients of the MLP's second
       layer and of the output layer.

    Noise of the update's size must move no certified feature far, beside how features differ.

    Args:
        starts: h of individuals of D_aux, shape (n, d).
        deviations: of their u, shape (n,).
    """
    if not len(found):
        return no_individuals(gradient.end)
    end, space = gradient.end, gradient.space
    h = found.extended[:, :-1]
    sums = _sums(end, h, found.deltas, deviations)
    apart = _apart(end, sums[:, None], found.deltas)[:, 0]
    direction, labels = apart.min(1)
    made = end.errors(sums)[torch.arange(len(labels)), labels]
    ratio = found.deltas.norm(dim=1) * gradient.individuals / made.norm(dim=1).clamp_min(TINY)
    noise = NOISE_MARGIN * space.noise_sensitivity(found.x.mT)
    rounding = (ROUNDED + noise).clamp_max(CERTAIN / 2)
    off = (ratio / ratio.median() - 1).abs()
    mismatch = torch.maximum(found.distances, direction)
    features = end.features(sums)
    whole = len(found) == space.rank == space.individuals
    explained = whole and _explained(gradient, found, features, sums, labels, rounding)
    # The x of who is almost sure is short, and the noise in it relatively large.
    solved = (found.distances < SOLVED + noise) & (noise < MOST_MOVED)
    certified = solved & (direction < rounding) & (off < 2 * rounding) & explained
    if bool(certified.any()):
        standardise = Standardisation.of(end.features(end.sums(starts, deviations[:, None])))
        made_of = partial(features_of, end, deviations)
        certified &= feature_errors(gradient, found, made_of, standardise) < SHARP
    certain = (mismatch < CERTAIN + noise.clamp_max(MOST_NOISE)) & (off < 2 * CERTAIN + noise)
    return RecoveredIndividuals(
        features, labels, mismatch, certain, certified, found.deltas.norm(dim=1)
    ).in_order()


def features_of(end: TokenEnd, deviations: Tensor, h: Tensor, deltas: Tensor) -> Tensor:
    """Return E of tokens whose h and δ are known, shape (n, d).

    Args:
        deviations: of u of individuals of D_aux, shape (n,).
        h, deltas: shape (n, d).
    """
    return end.features(_sums(end, h, deltas, deviations))


def _explained(
    gradient: TokenGradient,
    found: FoundTokens,
    features: Tensor,
    sums: Tensor,
    labels: Tensor,
    rounding: Tensor,
) -> bool:
    """Whether all individuals together make the gradients of the layers behind."""
    end = gradient.end
    hidden = end.activation.value(end.first.forward(found.extended[:, :-1]))
    second = found.deltas.mT @ functional.pad(hidden, (0, 1), value=1.0)
    errors = end.probabilities(features) - torch.eye(end.classes).to(features)[labels]
    made = end.errors(sums)[torch.arange(len(labels)), labels]
    # The factor by which each δ was found, which is that of r too.
    factor = found.deltas.norm(dim=1, keepdim=True) / made.norm(dim=1, keepdim=True).clamp_min(TINY)
    output = (factor * errors).mT @ functional.pad(features, (0, 1), value=1.0)
    pairs = ((second, gradient.second), (output, gradient.output))
    return all(
        bool((of - sent).norm() < rounding.min() * sent.norm().clamp_min(TINY))
        for of, sent in pairs
    )


def _sums(end: TokenEnd, h: Tensor, deltas: Tensor, deviations: Tensor) -> Tensor:
    """Return what the last LayerNorm takes, with the deviations at which δ agrees, shape (n, d)."""
    if end.before is None:
        return end.sums(h, h.new_ones(len(h), 1))
    lowest, highest = deviations.min().log() - BEYOND, deviations.max().log() + BEYOND
    centre = ((lowest + highest) / 2).expand(len(h), 1)
    reach = float(highest - lowest) / 2
    steps = torch.linspace(-1, 1, GRID).to(h)
    for _ in range(ZOOMS):
        tried = centre + reach * steps
        sums = end.sums(h[:, None], tried.exp()[..., None])
        best = _apart(end, sums, deltas).amin(2).argmin(1, keepdim=True)
        centre = tried.gather(1, best)
        reach *= 2 / (GRID - 1)
    return end.sums(h, centre.exp())


def _apart(end: TokenEnd, sums: Tensor, deltas: Tensor) -> Tensor:
    """Return distances between directions of δ, (n, s, d) against (n, d), shape (n, s, K)."""
    wanted = functional.normalize(deltas, dim=1)[:, None, None]
    parts = [
        (functional.normalize(end.errors(some), dim=3) - to).norm(dim=3)
        for some, to in zip(torch.split(sums, 1), torch.split(wanted, 1), strict=True)
    ]
    return torch.cat(parts)


BEYOND = 1.0
"""How far beyond those of D_aux deviations may be, in logarithms."""

GRID = 41
"""Deviations that are tried at once."""

ZOOMS = 7
"""Times that the range of deviations shrinks to one step."""

MOST_MOVED = 1e-3
"""Largest relative error of x that the update's noise may make for a certificate."""
