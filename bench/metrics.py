"""Accuracy of property inference, with bootstrap intervals by victim batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.stats import norm as normal
from scipy.stats import t as student

RESAMPLES = 2_000
LEVEL = 0.95

Weights = NDArray[np.float64]

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


def count_error(
    scores: NDArray[np.float64], present: NDArray[np.bool_], batch_size: int
) -> NDArray[np.float64]:
    """Return |inferred − true| number of individuals with the property over B, for each batch.

    Needs no matching: individuals of one batch stand together, in any order, shape (n,); the result
    has shape (n / B,).

    >>> count_error(np.array([.9, .2, .8, .7]), np.array([True, False, False, False]), 2)
    array([0., 1.])
    """
    inferred = (scores >= 0.5).reshape(-1, batch_size).sum(1)
    true = present.reshape(-1, batch_size).sum(1)
    return np.abs(inferred - true) / batch_size  # type: ignore[no-any-return]


def estimate(
    metric: Callable[[Weights], Weights], batches: int, batch_size: int, seed: int
) -> Estimate:
    """Return a metric on all individuals and its bootstrap interval.

    Batches are resampled, not individuals, since those of one batch are not independent. The
    percentiles are the expanded ones of Hesterberg 2015 (What Teachers Should Know About the
    Bootstrap, The American Statistician 69(4), section 5): they widen the interval where batches
    are few, as Student's t does, so that it still covers what it says.

    Args:
        metric: takes weights (resamples, batches · batch_size), returns values (resamples,).
    """
    draws = np.random.default_rng(seed).multinomial(batches, [1 / batches] * batches, RESAMPLES)
    value = metric(np.ones((1, batches * batch_size)))[0]
    resampled = metric(np.repeat(draws, batch_size, axis=1).astype(np.float64))
    resampled = resampled[np.isfinite(resampled)]
    if not np.isfinite(value) or not len(resampled):
        return Estimate(value=None, low=None, high=None)
    low, high = np.quantile(resampled, _expanded_percentiles(batches))
    return Estimate(value=float(value), low=float(low), high=float(high))


def estimate_mean(values: NDArray[np.float64], batch_size: int, seed: int) -> Estimate:
    """Return the mean of one value per individual, shape (n,), with its interval by batch."""
    return estimate(
        lambda weights: _ratio(weights @ values, weights.sum(1)),
        len(values) // batch_size,
        batch_size,
        seed,
    )


def _expanded_percentiles(batches: int) -> tuple[float, float]:
    if batches == 1:
        return 0.0, 1.0
    reach = math.sqrt(batches / (batches - 1)) * student.ppf((1 + LEVEL) / 2, batches - 1)
    tail = float(normal.cdf(-reach))
    return tail, 1 - tail


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    quotient = np.full(len(denominator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient
