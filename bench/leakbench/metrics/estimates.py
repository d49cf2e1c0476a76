"""Estimates with 95 % bootstrap intervals, resampled by victim batch and by identity."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.stats import norm as normal
from scipy.stats import t as student

RESAMPLES = 2_000
LEVEL = 0.95

Weights = NDArray[np.float64]
"""How often each individual counts in each resample, shape (resamples, n)."""

Groups = NDArray[np.int64]
"""The group of each individual, 0, 1, …; shape (n,)."""


class Estimate(BaseModel):
    """A number with its 95 % interval; None where it is not defined (a class is absent)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Resamples:
    """The bootstrap resamples of one grouping.

    Attributes:
        weights: how often each individual counts, shape (resamples, n); read-only.
        groups: the number of groups.
    """

    weights: Weights
    groups: int


class Bootstrap:
    """Bootstrap resamples of n individuals, drawn once and shared by all metrics.

    Groups are resampled, not individuals, since the individuals of one victim batch, or the images
    of one identity, are not independent. With several groupings the interval covers those of all.

    Args:
        groupings: at least one; of the same n individuals.
        seed: of the draws. Equal groupings and seeds give equal resamples.
    """

    def __init__(self, groupings: Sequence[Groups], seed: int) -> None:
        self._groupings = tuple(groupings)
        self._seed = seed

    @cached_property
    def resamples(self) -> tuple[Resamples, ...]:
        """The resamples of each grouping, drawn at the first use."""
        return tuple(_draw(groups, self._seed) for groups in self._groupings)

    def estimate(self, metric: Callable[[Weights], Weights]) -> Estimate:
        """Return a metric of all individuals and its bootstrap interval.

        The percentiles are the expanded ones of Hesterberg 2015 (What Teachers Should Know About
        the Bootstrap, The American Statistician 69(4), section 5): they widen the interval where
        groups are few, as Student's t does, so that it keeps its nominal coverage.

        Args:
            metric: takes weights (resamples, n), returns values (resamples,), NaN where undefined.
        """
        value = metric(np.ones((1, len(self._groupings[0]))))[0]
        intervals = [_interval(metric, resamples) for resamples in self.resamples]
        defined = [interval for interval in intervals if interval is not None]
        if not np.isfinite(value) or len(defined) < len(intervals):
            return Estimate(value=None, low=None, high=None)
        lows, highs = zip(*defined, strict=True)
        return Estimate(value=float(value), low=min(lows), high=max(highs))

    def mean(self, values: NDArray[np.float64]) -> Estimate:
        """Return the mean of one value per individual, shape (n,), with its interval."""
        return self.estimate(lambda weights: ratio(weights @ values, weights.sum(1)))


def estimate(
    metric: Callable[[Weights], Weights], groupings: Sequence[Groups], seed: int
) -> Estimate:
    """Return one metric and its interval from resamples of its own; see `Bootstrap.estimate`."""
    return Bootstrap(groupings, seed).estimate(metric)


def estimate_mean(values: NDArray[np.float64], groupings: Sequence[Groups], seed: int) -> Estimate:
    """Return one mean and its interval from resamples of its own; see `Bootstrap.mean`."""
    return Bootstrap(groupings, seed).mean(values)


def batches_of(count: int, size: int | Sequence[int]) -> Groups:
    """Return the batch of each individual, with batches one after the other.

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


def ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quotient of two arrays of equal shape; NaN where the denominator is 0.

    >>> ratio(np.array([1.0, 1.0]), np.array([2.0, 0.0]))
    array([0.5, nan])
    """
    quotient = np.full(len(denominator), np.nan)
    np.divide(numerator, denominator, out=quotient, where=denominator > 0)
    return quotient


def _draw(groups: Groups, seed: int) -> Resamples:
    count = int(groups.max()) + 1
    draws = np.random.default_rng(seed).multinomial(count, [1 / count] * count, RESAMPLES)
    weights = draws[:, groups].astype(np.float64)
    weights.flags.writeable = False
    return Resamples(weights, count)


def _interval(
    metric: Callable[[Weights], Weights], resamples: Resamples
) -> tuple[float, float] | None:
    """Return the interval of a metric under one grouping; None where it is not defined."""
    values = metric(resamples.weights)
    values = values[np.isfinite(values)]
    if not len(values):
        return None
    low, high = np.quantile(values, _expanded_percentiles(resamples.groups))
    return float(low), float(high)


def _expanded_percentiles(groups: int) -> tuple[float, float]:
    if groups == 1:
        return 0.0, 1.0
    reach = math.sqrt(groups / (groups - 1)) * student.ppf((1 + LEVEL) / 2, groups - 1)
    tail = float(normal.cdf(-reach))
    return tail, 1 - tail
