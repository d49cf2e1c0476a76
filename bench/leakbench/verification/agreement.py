"""Whether two measurements of one quantity of a cell contradict each other.

Three tests, of which each has a chance α of a false alarm: that of a whole verification, divided by
the number of its tests. t is the quantile of Student's distribution at 1 − α/2.

By the **interval** of the difference. If both measurements are independent, the difference of the
values has √2 times the deviation of either, so that it is at most

    √2 · t / t(0.975) · h,

where h is the interval's half-width on the side of the other value. Degrees of freedom: one less
than there are victim batches; with several trainings those of Satterthwaite.

By the **spread of repeats**. A repeat is of the same victims, and differs by the random numbers of
the attack and by rounding. Where the deviation between attack seeds is known, a mean over R runs
has the deviation s / √R (with several trainings, √(s² / R + s_t² / T)), and the difference is at
most

    f + √2 · t · s / √R,

where f is worth a few decisions, which rounding changes. A few runs tell s to no use: s² is their
variance, averaged with that of independent decisions (for cosines, with that by victims), by
degrees of freedom, as in the moderated t of Smyth 2004 (Linear Models and Empirical Bayes Methods,
Statistical Applications in Genetics and Molecular Biology 3(1)). An attack without random numbers
has s = 0: its values differ by f at most, whatever the intervals.

By their **width**: the squared quotient of the intervals has an F distribution. With several
trainings, whose variance two or three of them hardly tell, the deviations by victims take the
intervals' place.

Values must pass by the numbers of both: a claimed interval or deviation of any size lets no value
through that the new one does not. Shares are compared as angles, 2 arcsin √share, whose deviation
does not shrink towards 0 and 1. Numbers without an interval are compared as shares of independent
decisions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy.special import fdtri, ndtri, stdtrit

from leakbench.metrics.components import LEVEL, Components
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.spec import SIGNED
from leakbench.records.possible_values import ROUNDING

FALSE_ALARMS = 0.05
"""The most that may be the chance of a difference in a verification of honest records."""

TESTS = 5
"""Of an estimate: each value by the other's interval and spread, and the width of the intervals."""

FEW = 2
"""Decisions that rounding may change in any cell."""

FEW_SHARE = 0.03
"""The change of a share by rounding; the changes of many decisions cancel out nearly."""

FEW_COSINE = 0.02
"""The change of a mean cosine by rounding."""

EXPECTED_FREEDOM = 10
"""Degrees of freedom of what is expected of a deviation, beside those of the runs."""

TRAINING_DEVIATION = 0.02
"""Expected of accuracy between trainings of the shared model; 0.015 to 0.023 was measured."""

COARSE = 0.3
"""A test that lets a share be so far away counts for nothing."""

SHARE = (0.0, 1.0)
"""The range of shares."""


@dataclass(frozen=True)
class Sampling:
    """What an estimate was measured on.

    Attributes:
        batches: number of victim batches.
        individuals: number of victims that decide the value: of as many equal decisions it would be
            the share.
        range: the least and the greatest possible value.
        runs: over which it is a mean, those of all trainings together.
        trainings: of the shared model, over which it is a mean.
        is_random: whether a repeat may draw other random numbers.
        is_retrained: whether the repeat's shared model was trained on another processor, and so is
            another one.
    """

    batches: int
    individuals: int
    range: tuple[float, float]
    runs: int = 1
    trainings: int = 1
    is_random: bool = True
    is_retrained: bool = False

    @property
    def may_differ(self) -> bool:
        """Whether a repeat differs by more than rounding."""
        return self.is_random or self.is_retrained

    @property
    def few(self) -> float:
        """By how much rounding may move the value; 0 where that is unknown."""
        if self.range == SIGNED:
            return FEW_COSINE
        if self.range == SHARE:
            return max(FEW / (max(1, self.individuals) * self.runs), FEW_SHARE)
        return 0.0


def level(values: int) -> float:
    """Return the chance of a false alarm that each test may have, by Bonferroni's correction.

    Args:
        values: how many are tested in the whole verification.
    """
    return FALSE_ALARMS / (TESTS * max(1, values))


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
        return "further apart than a repeat is"
    return "" if _widths_agree(theirs, ours, sampling, level) else "the intervals differ in width"


def is_telling(ours: Estimate, sampling: Sampling, level: float) -> bool:
    """Whether an estimate that `is_testable` refuses a share that is `COARSE` away, up or down."""
    least, most = sampling.range
    value = _number(ours.value)
    wrong = [each for each in (value - COARSE, value + COARSE) if least <= each <= most]
    return not any(
        _is_reached(ours, Estimate(value=each, low=None, high=None), sampling, level)
        for each in wrong
    )


def reach_without_interval(one: float, other: float, sampling: Sampling, level: float) -> float:
    """Return how far apart two values without intervals may be; infinite where that is unknown.

    Shares of n independent decisions each, n those of all runs.
    """
    if not sampling.may_differ and sampling.few:
        return sampling.few
    if sampling.range != SHARE:
        return math.inf
    decisions = max(1, sampling.individuals) * sampling.runs
    deviation = math.sqrt(2 * _variance((one + other) / 2, decisions))
    return max(sampling.few, float(ndtri(1 - level / 2)) * deviation)


def _is_reached(estimate: Estimate, other: Estimate, sampling: Sampling, level: float) -> bool:
    """Whether the other value is not too far away by the numbers of one."""
    distance = abs(_number(estimate.value) - _number(other.value)) - _slack(estimate, other)
    if distance <= 0:
        return True
    if not sampling.may_differ and sampling.few:
        return distance <= sampling.few
    if _are_exceptions(estimate, other, sampling, level):
        return True
    if distance > _reach_of_repeats(estimate, sampling, level):
        return False
    return distance <= sampling.few or _is_reached_by_interval(estimate, other, sampling, level)


def _is_reached_by_interval(
    estimate: Estimate, other: Estimate, sampling: Sampling, level: float
) -> bool:
    scaled = _angle if sampling.range == SHARE else float
    numbers = (estimate.value, estimate.low, estimate.high, other.value)
    value, low, high, wanted = (scaled(_number(each)) for each in numbers)
    half = high - value if wanted > value else value - low
    # An end of a bootstrap interval of few batches may lie next to the value.
    half = max(half, (high - low) / 4)
    freedom = _freedom_of_interval(estimate.components, sampling)
    factor = stdtrit(freedom, 1 - level / 2) / stdtrit(freedom, (1 + LEVEL) / 2)
    return bool(abs(wanted - value) <= math.sqrt(2) * factor * half)


def _reach_of_repeats(estimate: Estimate, sampling: Sampling, level: float) -> float:
    """Return how far apart repeats are by seeds and trainings; infinite where that is unknown."""
    components = estimate.components
    if not sampling.few or (components is None and sampling.is_random):
        return math.inf
    of_seeds, of_trainings = (0.0, 1.0), (0.0, 1.0)
    if components is not None and sampling.is_random:
        expected = components.victims
        if sampling.range == SHARE:
            expected = math.sqrt(_variance(_number(estimate.value), max(1, sampling.individuals)))
        # With one run of each training the freedom is 0, and what is expected counts alone.
        seeds = _moderated(components.seeds or 0.0, sampling.runs - sampling.trainings, expected)
        of_seeds = (seeds[0] / sampling.runs, seeds[1])
    between = components.trainings if components is not None else None
    if between is not None or sampling.is_retrained:
        freedom = sampling.trainings - 1
        trainings = _moderated(between or 0.0, freedom, TRAINING_DEVIATION)
        of_trainings = (trainings[0] / sampling.trainings, trainings[1])
    quantile = float(stdtrit(_satterthwaite(of_seeds, of_trainings), 1 - level / 2))
    deviation = math.sqrt(of_seeds[0] + of_trainings[0])
    return sampling.few + math.sqrt(2) * quantile * deviation


def _moderated(deviation: float, freedom: float, expected: float) -> tuple[float, float]:
    """Return a variance that few runs tell, moderated by what is expected, and its freedom.

    >>> _moderated(1.0, 10, 2.0)
    (2.5, 20)
    """
    both = EXPECTED_FREEDOM + freedom
    return (EXPECTED_FREEDOM * expected**2 + freedom * deviation**2) / both, both


def _variance(share: float, decisions: float) -> float:
    """Return the variance of a share of independent decisions; not 0 where all agree."""
    share = (share * decisions + 1) / (decisions + 2)
    return share * (1 - share) / decisions


def _freedom_of_interval(components: Components | None, sampling: Sampling) -> float:
    of_victims = sampling.batches - 1
    if components is None or sampling.trainings < 2:
        return max(1, of_victims)
    of_means = (components.trainings or 0.0) ** 2 / sampling.trainings
    of_means += (components.seeds or 0.0) ** 2 / sampling.runs
    return _satterthwaite((components.victims**2, of_victims), (of_means, sampling.trainings - 1))


def _satterthwaite(*parts: tuple[float, float]) -> float:
    """Return the degrees of freedom of a sum of variances.

    Args:
        parts: each variance, and its degrees of freedom.

    >>> _satterthwaite((1.0, 4), (1.0, 4))
    8.0
    """
    total = sum(variance for variance, _ in parts)
    uncertain = sum(variance**2 / max(1, freedom) for variance, freedom in parts)
    return total**2 / uncertain if uncertain else max(1.0, *(freedom for _, freedom in parts))


def _angle(share: float) -> float:
    """Return the angle of a share, in [0, π].

    >>> round(_angle(1.0), 4)
    3.1416
    """
    return 2 * math.asin(math.sqrt(min(1.0, max(0.0, share))))


def _are_exceptions(one: Estimate, other: Estimate, sampling: Sampling, level: float) -> bool:
    """Whether the values differ by a few exceptions from an end of the range.

    One batch may turn out otherwise; or, if all individuals agree in one of the two measurements,
    as many individuals as binomial chance allows.
    """
    reach = 1 / max(1, sampling.batches)
    if any(_is_unanimous(each, sampling) for each in (one, other)):
        reach = max(reach, 1 - level ** (1 / max(1, sampling.individuals)))
    elif sampling.range != SHARE:
        return False
    values = [_number(each.value) for each in (one, other)]
    return any(max(abs(value - end) for value in values) <= reach for end in sampling.range)


def _widths_agree(theirs: Estimate, ours: Estimate, sampling: Sampling, level: float) -> bool:
    """Whether both intervals can be of the same sampling."""
    narrow, wide = sorted(_widths(theirs, ours, sampling))
    if wide <= _slack(theirs, ours):
        return True
    if any(_is_unanimous(each, sampling) for each in (theirs, ours)):
        # The width of the other, of a few exceptions, is known to no useful precision.
        return True
    if narrow <= 0:
        return _are_constant_but_for_few(theirs, ours, wide, sampling)
    freedom = _freedom_of_width(_number(ours.value), sampling)
    return (wide / narrow) ** 2 <= float(fdtri(freedom, freedom, 1 - level / 2))


def _are_constant_but_for_few(
    theirs: Estimate, ours: Estimate, wide: float, sampling: Sampling
) -> bool:
    """Whether one interval is a point since all answers are the same, and the other almost.

    Equal answers give a balanced accuracy and an AUC of ½ in every resample. A few exceptions give
    an interval of twice as many to both sides.
    """
    if sampling.range != SHARE or wide > 4 * FEW / max(1, sampling.individuals):
        return False
    points = (each for each in (theirs, ours) if each.low == each.high)
    return any(abs(_number(point.value) - 0.5) <= ROUNDING for point in points)


def _widths(theirs: Estimate, ours: Estimate, sampling: Sampling) -> tuple[float, float]:
    """Return the widths of the intervals; of several trainings the deviations by victims."""
    if sampling.trainings > 1 and theirs.components and ours.components:
        return theirs.components.victims, ours.components.victims
    return (
        _number(theirs.high) - _number(theirs.low),
        _number(ours.high) - _number(ours.low),
    )


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
    if not is_testable(estimate):
        return False
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
