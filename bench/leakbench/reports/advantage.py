"""The advantage of an attack over a baseline, and its mean."""

from __future__ import annotations

from collections.abc import Sequence
from math import hypot
from statistics import fmean

from leakbench.metrics.estimates import Estimate


def advantage_over(attack: Estimate, baseline: Estimate) -> Estimate:
    """Return by how much an attack's accuracy is above a baseline's, with its interval.

    The interval is computed from both intervals by the method of variance estimates recovery (Zou,
    Donner 2008, Construction of confidence limits about effect measures, Statistics in Medicine
    27(10)), which takes the two for independent. Attack and baseline answer for the same
    individuals, so that the interval tends to be too wide.

    Args:
        attack, baseline: both defined. Where one has no interval, the advantage has none.

    >>> attack = Estimate(value=.9, low=.87, high=.92)
    >>> above = advantage_over(attack, Estimate(value=.6, low=.57, high=.64))
    >>> above.value, above.low, above.high
    (0.3, 0.25, 0.336056)
    """
    assert attack.value is not None and baseline.value is not None
    above = attack.value - baseline.value
    if attack.low is None or attack.high is None or baseline.low is None or baseline.high is None:
        return Estimate(value=round(above, 6), low=None, high=None)
    below = hypot(attack.value - attack.low, baseline.high - baseline.value)
    over = hypot(attack.high - attack.value, baseline.value - baseline.low)
    return Estimate(value=round(above, 6), low=round(above - below, 6), high=round(above + over, 6))


def mean_advantage(above: Sequence[Estimate]) -> Estimate:
    """Return the mean of advantages, at least one, over properties or cells.

    Its interval is as wide as theirs on average: no narrower, since those of the same individuals
    have correlated errors. Where one has no interval, the mean has none.

    >>> two = [Estimate(value=0.25, low=0.0, high=0.5), Estimate(value=0.75, low=0.5, high=1.0)]
    >>> mean = mean_advantage(two)
    >>> mean.value, mean.low, mean.high
    (0.5, 0.25, 0.75)
    """
    lows = [each.low for each in above if each.low is not None]
    highs = [each.high for each in above if each.high is not None]
    whole = len(lows) == len(highs) == len(above)
    return Estimate(
        value=fmean(each.value or 0.0 for each in above),
        low=fmean(lows) if whole else None,
        high=fmean(highs) if whole else None,
    )
