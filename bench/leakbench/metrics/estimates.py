"""Accuracy of property inference, with bootstrap intervals by victim batch and by identity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.stats import norm as normal
from scipy.stats import t as student

RESAMPLES = 2_000
LEVEL = 0.95

Weights = NDArray[np.float64]

Groups = NDArray[np.int64]
"""Which group each individual is in, 0, 1, …; shape (n,)."""

Metric = Callable[[NDArray[np.float64], NDArray[np.bool_], Weights], Weights]
"""Scores (n,), truth (n,) and weights (resamples, n) to values (resamples,)."""


class Estimate(BaseModel):
    """A number with its 95 % interval; None where it is not defined (a class is absent)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None
    low: float | None
    high: float | None


def accuracy(scores: NDArray[np.float64], present: NDArray[np.bool_], weights: Weights) -> Weights:
    """Return the weighted share of right decisions at threshold ½.

    Args:
        scores: probabilities of presence, shape (n,).
        present: the truth, shape (n,).
        weights: how often each individual counts, shape (resamples, n).

    Returns:
        Shape (resamples,), as for the other metrics; NaN where undefined.

    >>> accuracy(np.array([.9, .2, .8]), np.array([True, False, False]), np.ones((1, 3)))
    array([0.66666667])
    """
    right = (scores >= 0.5) == present
    return _ratio(weights @ right, weights.sum(1))


def balanced_accuracy(
    scores: NDArray[np.float64], present: NDArray[np.bool_], weights: Weights
) -> Weights:
    """Return the mean of sensitivity and specificity at threshold ½; a constant answer gives ½.

    >>> balanced_accuracy(np.array([.9, .2, .8]), np.array([True, False, False]), np.ones((1, 3)))
    array([0.75])
    """
    positive = scores >= 0.5
    sensitivity = _ratio(weights @ (positive & present), weights @ present)
    specificity = _ratio(weights @ (~positive & ~present), weights @ ~present)
    return (sensitivity + specificity) / 2


def auc(scores: NDArray[np.float64], present: NDArray[np.bool_], weights: Weights) -> Weights:
    """Return the probability that a present individual scores above an absent one, ties half.

    >>> auc(np.array([.9, .2, .8]), np.array([True, False, False]), np.ones((1, 3)))
    array([1.])
    """
    above = np.sign(scores[present][:, None] - scores[~present][None]) / 2 + 0.5
    pairs = np.einsum(
        "rp,pn,rn->r", weights[:, present], above, weights[:, ~present], optimize=True
    )
    return _ratio(pairs, (weights @ present) * (weights @ ~present))


def tpr_at_fpr(rate: float) -> Metric:
    """Return the metric: the share of the present found where `rate` of the absent are, at most.

    Those with the same score are found together, or not at all.

    >>> tpr_at_fpr(0.5)(np.array([3., 2., 1., 0.]), np.array([1, 0, 1, 0], bool), np.ones((1, 4)))
    array([1.])
    >>> tpr_at_fpr(0.01)(np.array([3., 2., 1., 0.]), np.array([1, 0, 1, 0], bool), np.ones((1, 4)))
    array([0.5])
    """

    def metric(
        scores: NDArray[np.float64], present: NDArray[np.bool_], weights: Weights
    ) -> Weights:
        order = np.argsort(-scores, kind="stable")
        last = np.append(np.diff(scores[order]) != 0, True)
        right = (weights * present)[:, order].cumsum(1)
        wrong = (weights * ~present)[:, order].cumsum(1)
        possible = last & (wrong <= rate * wrong[:, -1:])
        most = np.where(possible, right, 0.0).max(1)
        return _ratio(np.where(wrong[:, -1] > 0, most, np.nan), right[:, -1])

    return metric


def count_error(
    scores: NDArray[np.float64], present: NDArray[np.bool_], batches: Groups
) -> NDArray[np.float64]:
    """Return |inferred − true| number of individuals with the property over B, for each batch.

    Needs no matching within a batch.

    Args:
        scores, present: of n individuals, shape (n,).
        batches: the batch of each.

    >>> present = np.array([True, False, False, False, True])
    >>> count_error(np.array([.9, .2, .8, .7, .3]), present, np.array([0, 0, 1, 1, 2]))
    array([0., 1., 1.])
    """
    inferred = np.bincount(batches, weights=scores >= 0.5)
    errors: NDArray[np.float64] = np.abs(inferred - np.bincount(batches, weights=present))
    return errors / np.bincount(batches)


def estimate(
    metric: Callable[[Weights], Weights], groupings: Sequence[Groups], seed: int
) -> Estimate:
    """Return a metric on all individuals and its bootstrap interval.

    Groups are resampled, not individuals, since those of one victim batch, or the images of one
    person, are not independent. With several groupings the interval is what holds those of all.

    The percentiles are the expanded ones of Hesterberg 2015 (What Teachers Should Know About the
    Bootstrap, The American Statistician 69(4), section 5): they widen the interval where groups
    are few, as Student's t does, so that it still covers what it says.

    Args:
        metric: takes weights (resamples, n), returns values (resamples,).
        groupings: at least one.
    """
    value = metric(np.ones((1, len(groupings[0]))))[0]
    bounds = [_bounds(metric, groups, seed) for groups in groupings]
    if not np.isfinite(value) or None in bounds:
        return Estimate(value=None, low=None, high=None)
    lows, highs = zip(*(each for each in bounds if each), strict=True)
    return Estimate(value=float(value), low=min(lows), high=max(highs))


def _bounds(
    metric: Callable[[Weights], Weights], groups: Groups, seed: int
) -> tuple[float, float] | None:
    """Return the interval's ends with these groups resampled; None where it is not defined."""
    count = int(groups.max()) + 1
    draws = np.random.default_rng(seed).multinomial(count, [1 / count] * count, RESAMPLES)
    resampled = metric(draws[:, groups].astype(np.float64))
    resampled = resampled[np.isfinite(resampled)]
    if not len(resampled):
        return None
    low, high = np.quantile(resampled, _expanded_percentiles(count))
    return float(low), float(high)


def estimate_mean(values: NDArray[np.float64], groupings: Sequence[Groups], seed: int) -> Estimate:
    """Return the mean of one value per individual, shape (n,), with its interval."""
    return estimate(lambda weights: _ratio(weights @ values, weights.sum(1)), groupings, seed)


def batches_of(count: int, size: int | Sequence[int]) -> Groups:
    """Return the batch of each individual, batches standing one after the other.

    Args:
        size: of all batches, or of each.

    >>> batches_of(2, 3)
    array([0, 0, 0, 1, 1, 1])
    >>> batches_of(2, [1, 3])
    array([0, 1, 1, 1])
    """
    return np.repeat(np.arange(count), size)


def groups_of(identities: NDArray[np.int64]) -> Groups:
    """Return the number of each individual's identity, in order of appearance.

    >>> groups_of(np.array([7, 3, 7]))
    array([0, 1, 0])
    """
    _, first, inverse = np.unique(identities, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[inverse]


def _expanded_percentiles(groups: int) -> tuple[float, float]:
    if groups == 1:
        return 0.0, 1.0
    reach = math.sqrt(groups / (groups - 1)) * student.ppf((1 + LEVEL) / 2, groups - 1)
    tail = float(normal.cdf(-reach))
    return tail, 1 - tail


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    quotient = np.full(len(denominator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def percent(estimate: Estimate) -> str:
    """Return a share with its interval, in percent."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "undefined"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def number(estimate: Estimate, digits: int) -> str:
    """Return a number with its interval."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "undefined"
    value, low, high = (f"{x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"
