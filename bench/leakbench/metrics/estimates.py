"""Estimates with 95 % intervals: victims by the bootstrap, trainings by their variance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict, SerializerFunctionWrapHandler, model_serializer
from pydantic.dataclasses import dataclass as validated
from scipy.special import ndtr, stdtrit

from leakbench.metrics.components import LEVEL, Components, Spread, widened

RESAMPLES = 2_000

MIN_GROUPS = 5
"""Victim batches, and identities where one appears twice, below which there is no interval: it
would hold the true value less often than it says."""

Weights = NDArray[np.float64]
"""How often each individual counts in each resample, shape (resamples, n)."""

Groups = NDArray[np.int64]
"""The group of each individual, 0, 1, …; shape (n,)."""


# No model, of which each takes four times the memory: records are little else.
@validated(config=ConfigDict(extra="forbid"), frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number with its 95 % interval.

    Attributes:
        value: None where it is not defined, e.g. since a class is absent.
        low, high: None also where there are too few groups for an interval; see `MIN_GROUPS`.
        components: what it varies by, where it is a mean over several runs.
    """

    value: float | None
    low: float | None
    high: float | None
    components: Components | None = None

    @model_serializer(mode="wrap")
    def _without_absent_components(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        content: dict[str, Any] = write(self)
        if self.components is None:
            content.pop("components", None)
        return content


UNDEFINED = Estimate(value=None, low=None, high=None)


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
        trainings: the training of the shared model of each run, shape (runs,); one run if None.
    """

    def __init__(
        self, groupings: Sequence[Groups], seed: int, trainings: Groups | None = None
    ) -> None:
        self._groupings = tuple(groupings)
        self._seed = seed
        self._trainings = np.zeros(1, np.int64) if trainings is None else trainings

    @cached_property
    def resamples(self) -> tuple[Resamples, ...]:
        """The resamples of each grouping, drawn at the first use."""
        return tuple(_draw(groups, self._seed) for groups in self._groupings)

    def estimate(
        self, metric: Callable[[Weights], Weights], by_run: NDArray[np.float64] | None = None
    ) -> Estimate:
        """Return a metric of all individuals, with its interval.

        The percentiles are the expanded ones of Hesterberg 2015 (What Teachers Should Know About
        the Bootstrap, The American Statistician 69(4), section 5): they widen the interval where
        groups are few, as Student's t does, so that it keeps its nominal coverage. With several
        trainings the interval holds their variation too, see `components.widened`.

        Args:
            metric: takes weights (resamples, n), returns values (resamples,), NaN where undefined;
                the mean over runs.
            by_run: its value in each run, shape (runs,); None for a single run.
        """
        value = float(metric(np.ones((1, len(self._groupings[0]))))[0])
        if not np.isfinite(value):
            return UNDEFINED
        if any(groups.max() + 1 < MIN_GROUPS for groups in self._groupings):
            return Estimate(value=value, low=None, high=None)
        found = [(_finite(metric(r.weights)), r.groups) for r in self.resamples]
        if not all(len(values) for values, _ in found):
            return UNDEFINED
        spread = Spread.of(
            np.array([value]) if by_run is None else by_run,
            self._trainings[:1] if by_run is None else self._trainings,
        )
        reaches = [_reaches(values, value, groups, spread) for values, groups in found]
        victims = max(float(values.std()) for values, _ in found)
        several = by_run is not None and len(by_run) > 1
        return Estimate(
            value=value,
            low=value - max(below for below, _ in reaches),
            high=value + max(above for _, above in reaches),
            components=spread.components(victims) if several else None,
        )

    def mean(self, values: NDArray[np.float64]) -> Estimate:
        """Return the mean of one value per individual, with its interval.

        Args:
            values: shape (n,), or (runs, n).
        """
        mean = np.atleast_2d(values).mean(0)
        by_run = values.mean(1) if values.ndim == 2 else None
        return self.estimate(lambda weights: ratio(weights @ mean, weights.sum(1)), by_run)


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


def _finite(values: NDArray[np.float64]) -> NDArray[np.float64]:
    finite: NDArray[np.float64] = values[np.isfinite(values)]
    return finite


def _reaches(
    values: NDArray[np.float64], value: float, groups: int, spread: Spread
) -> tuple[float, float]:
    """Return how far the interval reaches below the value and above it, under one grouping.

    Args:
        values: of the metric in the resamples, shape (resamples,).
    """
    low, high = np.quantile(values, _expanded_percentiles(groups))
    below, above = max(0.0, value - float(low)), max(0.0, float(high) - value)
    return widened(below, groups, spread), widened(above, groups, spread)


def _expanded_percentiles(groups: int) -> tuple[float, float]:
    reach = math.sqrt(groups / (groups - 1)) * stdtrit(groups - 1, (1 + LEVEL) / 2)
    tail = float(ndtr(-reach))
    return tail, 1 - tail
