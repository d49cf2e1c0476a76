"""On what each metric of a cell was measured, as far as the comparison of repeats needs it."""

from __future__ import annotations

import math

from leakbench.experiments.cell import UTILITY_TRAININGS
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics import of_attacks, of_properties
from leakbench.metrics.of_attacks import FALSE_POSITIVE_RATE
from leakbench.metrics.of_setups import DISTORTION, SETUP_METRICS, UTILITY, UTILITY_LOST
from leakbench.metrics.spec import Leaf, MetricSpec
from leakbench.records.record import Metrics
from leakbench.verification.agreement import Sampling

COUNT_ERROR_DECISIONS = 1 / 3
"""A count error of n decisions varies, where it is small, as a share of about n / 3 does."""


def sampling_of(
    leaf: Leaf, spec: MetricSpec | None, resolved: ResolvedCell, of: Metrics
) -> Sampling:
    """Return what a metric of a cell was measured on.

    Args:
        of: the metrics of one of the two records, for the prevalence of properties.
    """
    cell, setups = resolved.cell, len(resolved.setups)
    runs = resolved.runs * setups
    if spec is None:
        return Sampling(resolved.updates, cell.individuals, (-math.inf, math.inf))
    if spec is DISTORTION:
        return Sampling(resolved.updates, cell.individuals, spec.range, runs, setups)
    if spec in SETUP_METRICS:
        trainings = UTILITY_TRAININGS if spec in (UTILITY, UTILITY_LOST) else 1
        return Sampling(resolved.updates, cell.individuals, spec.range, trainings, trainings)
    decisive = max(1, round(_decisive(leaf, spec, resolved, of)))
    return Sampling(resolved.updates, decisive, spec.range, runs, setups, resolved.attack.is_random)


def _decisive(leaf: Leaf, spec: MetricSpec, resolved: ResolvedCell, of: Metrics) -> float:
    """Return of how many equal decisions in one run the value varies as the share does."""
    individuals = resolved.cell.individuals
    if spec is of_attacks.DIVERGED:
        return resolved.updates
    if spec is of_attacks.MEMBERSHIP_TPR:
        # The candidates of other people above the threshold decide it.
        return individuals * FALSE_POSITIVE_RATE
    if spec is of_properties.COUNT_ERROR:
        return individuals * COUNT_ERROR_DECISIONS
    if not spec.is_per_property:
        return individuals
    prevalence = of.properties[leaf.path[1]].prevalence
    rarer = individuals * min(prevalence, 1 - prevalence)
    if spec in (of_properties.BALANCED_ACCURACY, of_properties.SWAPPED_BALANCED_ACCURACY):
        return 2 * rarer
    return rarer if spec is of_properties.AUC else individuals
