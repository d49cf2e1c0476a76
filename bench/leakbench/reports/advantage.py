"""The advantage of an attack over a baseline."""

from __future__ import annotations

from math import hypot

from leakbench.metrics.estimates import Estimate


def advantage_over(attack: Estimate, baseline: Estimate) -> Estimate:
    """Return by how much an attack's accuracy is above a baseline's, with its interval.

    The interval is computed from both intervals by the method of variance estimates recovery (Zou,
    Donner 2008, Construction of confidence limits about effect measures, Statistics in Medicine
    27(10)), which takes the two for independent. Attack and baseline answer for the same
    individuals, so that the interval tends to be too wide.

    Args:
        attack, baseline: both defined, with intervals.

    >>> attack = Estimate(value=.9, low=.87, high=.92)
    >>> advantage_over(attack, Estimate(value=.6, low=.57, high=.64))
    Estimate(value=0.3, low=0.25, high=0.336056)
    """
    assert attack.value is not None and attack.low is not None and attack.high is not None
    assert baseline.value is not None and baseline.low is not None and baseline.high is not None
    above = attack.value - baseline.value
    below = hypot(attack.value - attack.low, baseline.high - baseline.value)
    over = hypot(attack.high - attack.value, baseline.value - baseline.low)
    return Estimate(value=round(above, 6), low=round(above - below, 6), high=round(above + over, 6))
