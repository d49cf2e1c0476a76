"""Whether a record's metrics are means over the runs that its cell has."""

from __future__ import annotations

import math
from collections.abc import Iterator

from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics.catalogue import spec_of
from leakbench.metrics.components import Components
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.of_setups import SETUP_METRICS
from leakbench.metrics.spec import Leaf, MetricSpec, leaves
from leakbench.records.record import Metrics

OF_SETUPS = frozenset(spec.name for spec in SETUP_METRICS)
"""Metrics that have no runs of an attack."""

NARROWEST = 1.9
"""Least width of a 95 % interval in standard deviations, half of what a normal distribution has:
distributions of few values, and those that end at one side, have narrower ones."""


def impossible_runs(metrics: Metrics, resolved: ResolvedCell) -> Iterator[str]:
    """Yield where metrics do not come from the runs of a cell, a phrase each."""
    trainings = resolved.trainings
    runs = resolved.runs * trainings
    if (metrics.runs or 1) != runs or metrics.runs == 1:
        yield f"{metrics.runs or 'no number of'} runs, and its cell has {runs}"
        return
    for leaf in leaves(metrics):
        spec = spec_of(leaf.path)
        if spec is None or spec.name in OF_SETUPS or not isinstance(leaf.value, Estimate):
            continue
        if runs > 1 or leaf.value.components is not None:
            yield from _impossible_components(leaf, spec, trainings, resolved.runs)
    yield from _unswapped(metrics, resolved)


def _impossible_components(
    leaf: Leaf, spec: MetricSpec, trainings: int, of_each: int
) -> Iterator[str]:
    """Yield what is wrong with the components of an estimate's variation.

    Args:
        of_each: runs of each training.
    """
    assert isinstance(leaf.value, Estimate)
    estimate, found = leaf.value, leaf.value.components
    expected = estimate.low is not None and trainings * of_each > 1
    if (found is not None) != expected:
        which = "no components of its variation" if expected else "components of its variation"
        yield f"{leaf.name} with {which}, of {trainings * of_each} runs"
        return
    if found is None:
        return
    for name, value, several in (
        ("seeds", found.seeds, of_each > 1),
        ("trainings", found.trainings, trainings > 1),
    ):
        if (value is not None) != several:
            yield (
                f"{leaf.name} with {'no ' * several}variation between {name}, of {trainings} "
                f"trainings with {of_each} runs each"
            )
    if _is_too_narrow(estimate, found, spec, trainings):
        yield (
            f"{leaf.name} with the interval {estimate.low:g} to {estimate.high:g}, which is "
            f"narrower than its components allow"
        )


def _is_too_narrow(
    estimate: Estimate, components: Components, spec: MetricSpec, trainings: int
) -> bool:
    """Whether an interval is narrower than the variation of victims and trainings makes it."""
    assert estimate.low is not None and estimate.high is not None
    if estimate.low <= spec.range[0] or estimate.high >= spec.range[1]:
        # The interval was cut off at the end of the range.
        return False
    deviation = math.hypot(components.victims, (components.trainings or 0.0) / math.sqrt(trainings))
    return estimate.high - estimate.low < NARROWEST * deviation


def _unswapped(metrics: Metrics, resolved: ResolvedCell) -> Iterator[str]:
    """Yield swapped metrics without features, and features without swapped metrics."""
    has_features = metrics.feature_cosine is not None
    swapped = {
        "swapped_cosine": metrics.swapped_cosine,
        **{
            f"properties[{name!r}].swapped_balanced_accuracy": of.swapped_balanced_accuracy
            for name, of in metrics.properties.items()
        },
    }
    for name, value in swapped.items():
        if value is not None and not has_features:
            yield f"{name}, and no feature cosine"
        if value is None and has_features and resolved.updates > 1:
            yield f"a feature cosine, and no {name}"
