"""Values that no measurement gives: what the metrics and cost of a record cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterator

from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics.catalogue import spec_of
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.spec import Leaf, MetricSpec, leaves
from leakbench.records.possible_runs import impossible_runs
from leakbench.records.record import Metrics, PropertyMetrics, Record
from leakbench.threat.knowledge import Knowledge

ROUNDING = 1e-5
"""Of float32 means, relative."""


def impossible_values(record: Record, resolved: ResolvedCell | None = None) -> Iterator[str]:
    """Yield what cannot be in a record's metrics and cost, a phrase each.

    Args:
        resolved: its cell with its plugins, which are built if None.
    """
    assert record.metrics is not None
    resolved = ResolvedCell.of(record.cell) if resolved is None else resolved
    runs = record.metrics.runs or 1
    counted = {
        "individuals": record.cell.individuals * runs,
        "updates": resolved.updates * runs,
    }
    for leaf in leaves(record.metrics):
        spec = spec_of(leaf.path)
        if spec is None:
            yield f"{leaf.name}, which is no known metric"
            continue
        if not _is_plain(leaf.value, spec):
            yield from _impossible(leaf, spec)
        if spec.counted is not None:
            yield from _uncountable(leaf, counted[spec.counted])
    yield from impossible_runs(record.metrics, resolved)
    yield from _inconsistent(record, record.metrics)
    yield from _costless(record)


def are_within(estimate: Estimate, spec: MetricSpec) -> bool:
    """Whether an estimate has an interval, of which and of its value `is_within` holds."""
    if _is_plain(estimate, spec):
        return True
    numbers = (estimate.low, estimate.value, estimate.high)
    return all(each is not None and is_within(each, spec) for each in numbers)


def _is_plain(value: Estimate | float, spec: MetricSpec) -> bool:
    """Whether a value is in its range and in its interval even without rounding, as nearly all are.

    Asked first, since it is much faster than to look for what is wrong.
    """
    least, most = spec.range
    if not isinstance(value, Estimate):
        # False also where the value is no number.
        return least <= value <= most and -math.inf < value < math.inf
    low, middle, high = value.low, value.value, value.high
    if low is None or middle is None or high is None:
        return False
    return least <= low <= middle <= high <= most and -math.inf < low and high < math.inf


def is_within(value: float, spec: MetricSpec) -> bool:
    """Whether a value is finite and in the range of its metric, up to rounding."""
    least, most = spec.range
    slack = ROUNDING * max(1.0, abs(value))
    return math.isfinite(value) and least - slack <= value <= most + slack


def _impossible(leaf: Leaf, spec: MetricSpec) -> Iterator[str]:
    """Yield what is wrong with one value, or with one and its interval."""
    name, value = leaf.name, leaf.value
    least, most = spec.range
    if not isinstance(value, Estimate):
        if not is_within(value, spec):
            yield f"{name} = {value:g}, which cannot be outside [{least:g}, {most:g}]"
        return
    numbers = (value.low, value.value, value.high)
    if numbers[0] is None and numbers[2] is None:
        # Undefined, or without an interval.
        numbers = (value.value,) * 3
    if numbers == (None, None, None):
        return
    if any(each is None or not math.isfinite(each) for each in numbers):
        yield f"{name} = {value.value} with the interval {value.low} to {value.high}"
        return
    low, middle, high = (each for each in numbers if each is not None)
    slack = ROUNDING * max(1.0, abs(middle))
    if not (is_within(low, spec) and is_within(high, spec)):
        yield (
            f"{name} = {middle:g} ({low:g} to {high:g}), which cannot be outside "
            f"[{least:g}, {most:g}]"
        )
    if not low - slack <= middle <= high + slack:
        yield f"{name} = {middle:g}, which its interval {low:g} to {high:g} does not contain"


def _uncountable(leaf: Leaf, of_how_many: int) -> Iterator[str]:
    """Yield a share that no count divided by that number gives."""
    value = leaf.value.value if isinstance(leaf.value, Estimate) else leaf.value
    if value is not None and not _is_whole(value * of_how_many):
        yield f"{leaf.name} = {value:g}, which is no share of {of_how_many}"


def _is_whole(count: float) -> bool:
    """Whether a count is a whole number; values that are not finite are reported elsewhere."""
    if not math.isfinite(count):
        return True
    return abs(count - round(count)) <= ROUNDING * max(1.0, abs(count))


def _inconsistent(record: Record, metrics: Metrics) -> Iterator[str]:
    """Yield values that contradict each other."""
    cell, runs = record.cell, metrics.runs or 1
    individuals = cell.individuals * runs
    if list(metrics.properties) != list(cell.properties):
        yield f"metrics of {', '.join(metrics.properties)}, not of {', '.join(cell.properties)}"
    certificates = metrics.certificates
    if certificates and certificates.false > certificates.share * individuals + ROUNDING:
        yield (
            f"{certificates.false} false certificates of "
            f"{certificates.share * individuals:g} in all"
        )
    if certificates and metrics.exact and metrics.exact.value is not None:
        true = certificates.share * individuals - certificates.false
        exact = metrics.exact.value * individuals
        if true > exact + ROUNDING * individuals:
            yield f"{true:g} true certificates, and {exact:g} exact features"
    if certificates and metrics.claimed and certificates.share > metrics.claimed.share:
        yield f"certified {certificates.share:g}, and claimed {metrics.claimed.share:g}"
    if (metrics.defense is None) != (cell.defense == "none"):
        yield f"defense {cell.defense!r}, and {'no ' * (metrics.defense is None)}cost of a defense"
    if ("central" in metrics.main_task) != cell.central:
        yield f"central = {cell.central}, and {'no ' * cell.central}centrally trained model"
    outputs = Knowledge.OUTPUTS in Knowledge.parse(record.knowledge)
    if outputs != (metrics.deployed is not None):
        yield "deployed models without knowledge of outputs, or the reverse"
    if (record.status == "diverged") != (metrics.diverged == 1):
        yield f"status {record.status!r}, and {metrics.diverged:.0%} of the batches diverged"
    for name, of in metrics.properties.items():
        if not _are_counts(of, cell.individuals, runs):
            yield (
                f"{name}: accuracy {of.accuracy.value} and balanced accuracy "
                f"{of.balanced_accuracy.value} at prevalence {of.prevalence:g}, which no numbers "
                f"of correct decisions give"
            )


def _are_counts(of: PropertyMetrics, individuals: int, runs: int) -> bool:
    """Whether accuracy and balanced accuracy come from whole numbers of correct decisions.

    With a correct decisions for the n₁ individuals with the property and b for the n₀ without it,
    all runs together, accuracy is (a + b) / n and balanced accuracy (a / n₁ + b / n₀) / 2.
    """
    accuracy, balanced = of.accuracy.value, of.balanced_accuracy.value
    if not all(0 <= each <= 1 for each in (of.prevalence, accuracy or 0, balanced or 0)):
        # Reported as outside of its range.
        return True
    positives = round(of.prevalence * individuals) * runs
    individuals *= runs
    negatives = individuals - positives
    if accuracy is None or positives <= 0 or negatives <= 0:
        # Where all individuals have it, or none, specificity or sensitivity is undefined.
        return balanced is None
    if balanced is None:
        return False
    correct = round(accuracy * individuals)
    if positives == negatives:
        return abs(accuracy - balanced) <= ROUNDING
    hits = (2 * balanced - correct / negatives) / (1 / positives - 1 / negatives)
    rejections = correct - hits
    # Solving for counts multiplies rounding by the larger group.
    slack = ROUNDING * individuals
    return (
        abs(hits - round(hits)) <= slack
        and -slack <= hits <= positives + slack
        and -slack <= rejections <= negatives + slack
    )


def _costless(record: Record) -> Iterator[str]:
    cost = record.cost
    if cost is None or not cost.seconds > 0 or not cost.peak_memory_mib > 0:
        yield "a cost of nothing"
        return
    numbers = (cost.seconds, cost.steps, cost.restarts or 0.0, cost.peak_memory_mib)
    if not all(math.isfinite(each) and each >= 0 for each in numbers):
        yield (
            f"a cost of {cost.seconds:g} seconds, {cost.steps:g} steps, {cost.restarts} restarts "
            f"and {cost.peak_memory_mib:g} MiB"
        )
