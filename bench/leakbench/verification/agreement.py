"""Whether two estimates of one quantity, measured apart, contradict each other.

An estimate comes with a 95 % interval. Where two honest measurements of a cell are independent,
both intervals are as wide up to chance, and the difference of the values has √2 times the deviation
of either. It may therefore be at most

    √2 · t(1 − α/2) / t(0.975) · h,

where h is the interval's half-width on the side of the other value, and t the quantile of Student's
distribution, by which the intervals are made too, with one degree of freedom less than there are
victim batches. α is the share of false alarms of a whole verification divided by the number of
tests. This must hold for the h of both: a claimed interval of any width lets no value through that
the new interval does not. Nor may one interval be much wider than the other: the squared quotient
of their widths has an F distribution.

Shares are compared as angles, 2 arcsin √share, whose deviation does not shrink towards 0 and 1.

Repeats share victims and seeds, which makes them more alike than the tests assume.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.stats import f as fisher
from scipy.stats import t as student

from leakbench.metrics.components import LEVEL
from leakbench.metrics.estimates import Estimate
from leakbench.records.possible_values import ROUNDING

FALSE_ALARMS = 0.05
"""The most that may be the chance of a difference in a verification of honest records."""

TESTS = 3
"""Of an estimate: each value by the other's interval, and the width of the intervals."""


@dataclass(frozen=True)
class Sampling:
    """What an estimate was measured on.

    Attributes:
        batches: number of victim batches.
        individuals: number of victims.
        range: the least and the greatest possible value.
    """

    batches: int
    individuals: int
    range: tuple[float, float]


def level(estimates: int) -> float:
    """Return the chance of a false alarm that each test may have, by Bonferroni's correction.

    Args:
        estimates: how many are tested in the whole verification.
    """
    return FALSE_ALARMS / (TESTS * max(1, estimates))


def is_testable(estimate: Estimate) -> bool:
    """Whether an estimate has a value and an interval."""
    return None not in (estimate.value, estimate.low, estimate.high)


def contradiction(theirs: Estimate, ours: Estimate, sampling: Sampling, level: float) -> str:
    """Return how two testable estimates contradict each other; empty if they do not.

    Args:
        level: the chance of a false alarm of each test, see `level`.
    """
    if not (
        _is_reached(theirs, ours, sampling, level) and _is_reached(ours, theirs, sampling, level)
    ):
        return "further apart than both intervals allow"
    return "" if _widths_agree(theirs, ours, sampling, level) else "the intervals differ in width"


def _is_reached(estimate: Estimate, other: Estimate, sampling: Sampling, level: float) -> bool:
    """Whether the other value is not too far away by the interval of one."""
    distance = abs(_number(estimate.value) - _number(other.value)) - _slack(estimate, other)
    is_unanimous = _is_unanimous(estimate, sampling)
    if is_unanimous or sampling.range == SHARE:
        if distance <= _reach_of_exceptions(sampling, level):
            return True
        if is_unanimous:
            return False
    scaled = _angle if sampling.range == SHARE else float
    numbers = (estimate.value, estimate.low, estimate.high, other.value)
    value, low, high, wanted = (scaled(_number(each)) for each in numbers)
    half = high - value if wanted > value else value - low
    # An end of a bootstrap interval of few batches may lie next to the value.
    half = max(half, (high - low) / 4)
    freedom = max(1, sampling.batches - 1)
    factor = student.ppf(1 - level / 2, freedom) / student.ppf((1 + LEVEL) / 2, freedom)
    return bool(abs(wanted - value) <= math.sqrt(2) * factor * half + _slack(estimate, other))


SHARE = (0.0, 1.0)
"""The range of shares, of which a few exceptions among individuals may decide the interval."""


def _angle(share: float) -> float:
    """Return the angle of a share, in [0, π].

    >>> round(_angle(1.0), 4)
    3.1416
    """
    return 2 * math.asin(math.sqrt(min(1.0, max(0.0, share))))


def _reach_of_exceptions(sampling: Sampling, level: float) -> float:
    """Return how far a value may be away by chance from one that all individuals agree on.

    One batch may turn out otherwise, or as many individuals as binomial chance allows.
    """
    least, most = sampling.range
    individuals: float = 1 - level ** (1 / max(1, sampling.individuals))
    return (most - least) * max(1 / max(1, sampling.batches), individuals)


def _widths_agree(theirs: Estimate, ours: Estimate, sampling: Sampling, level: float) -> bool:
    """Whether both intervals can be of the same sampling."""
    widths = [_number(each.high) - _number(each.low) for each in (theirs, ours)]
    narrow, wide = min(widths), max(widths)
    if wide <= _slack(theirs, ours):
        return True
    if any(_is_unanimous(each, sampling) for each in (theirs, ours)):
        # The width of the other, of a few exceptions, is known to no useful precision.
        return True
    if narrow <= 0:
        return False
    freedom = _freedom_of_width(_number(ours.value), sampling)
    return (wide / narrow) ** 2 <= float(fisher.ppf(1 - level / 2, freedom, freedom))


def _freedom_of_width(value: float, sampling: Sampling) -> float:
    """Return the degrees of freedom of a variance estimated from the batches.

    At most one less than there are batches; fewer where few batches decide the variance. The most
    uneven case is that each batch gives an end of the range, with a share p of them one end: then
    the squared deviations have the kurtosis 1 + (1 − 4pq) / pq.
    """
    most = max(1.0, sampling.batches - 1.0)
    low, high = sampling.range
    if not math.isfinite(high - low):
        return max(1.0, most / 2)
    p = min(1.0, max(0.0, (value - low) / (high - low)))
    product = p * (1 - p)
    excess = 1 - 4 * product
    if excess <= 2 * product:
        return most
    return max(1.0, min(most, 2 * sampling.batches * product / excess))


def _is_unanimous(estimate: Estimate, sampling: Sampling) -> bool:
    """Whether all individuals gave the same end of the metric's range."""
    value = _number(estimate.value)
    slack = ROUNDING * max(1.0, abs(value))
    at_end = any(math.isfinite(end) and abs(value - end) <= slack for end in sampling.range)
    bounded = all(map(math.isfinite, sampling.range))
    return at_end and bounded and _number(estimate.high) - _number(estimate.low) <= slack


def _slack(theirs: Estimate, ours: Estimate) -> float:
    return ROUNDING * max(1.0, abs(_number(theirs.value)), abs(_number(ours.value)))


def _number(value: float | None) -> float:
    """Return a number of an estimate that `is_testable`."""
    assert value is not None
    return value
