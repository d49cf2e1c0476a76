"""Numbers that no measurement gives: what a record's metrics cannot be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics.estimates import Estimate
from leakbench.records.record import Metrics, PropertyMetrics, Record
from leakbench.threat.knowledge import Knowledge

RANGES: Mapping[str, tuple[float, float]] = {
    "feature_cosine": (-1, 1),
    "ssim": (-1, 1),
    "utility_lost": (-1, 1),
    "psnr": (-math.inf, 100),
    "lpips": (0, math.inf),
    "distortion": (0, math.inf),
    "epsilon": (0, math.inf),
    "classes": (2, math.inf),
    "false": (0, math.inf),
}
"""What a metric can be, where that is not a share, in [0, 1]."""

ROUNDING = 1e-5
"""Of float32 means, relative."""


def impossible_numbers(record: Record) -> Iterator[str]:
    """Yield what cannot be in a record's metrics and cost, a few words each."""
    assert record.metrics is not None
    for name, value in leaves(record.metrics):
        yield from _impossible(name, value)
    yield from _uncountable(record, record.metrics)
    yield from _inconsistent(record, record.metrics)
    yield from _costless(record)


def leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the names and values of all estimates, numbers and booleans of metrics."""
    if isinstance(tree, Estimate | int | float):
        yield name, tree
    elif isinstance(tree, BaseModel):
        for field in type(tree).model_fields:
            yield from leaves(getattr(tree, field), f"{name}.{field}".removeprefix("."))
    elif isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from leaves(value, f"{name}[{key!r}]")


def _impossible(name: str, value: Estimate | float) -> Iterator[str]:
    """Yield what is wrong with one number, or with one and its interval."""
    least, most = RANGES.get(name.rpartition(".")[2], (0, 1))
    if not isinstance(value, Estimate):
        if not (math.isfinite(value) and least <= value <= most):
            yield f"{name} = {value:g}, which cannot be outside [{least:g}, {most:g}]"
        return
    numbers = (value.low, value.value, value.high)
    if numbers == (None, None, None):
        return
    if any(each is None or not math.isfinite(each) for each in numbers):
        yield f"{name} = {value.value} with the interval {value.low} to {value.high}"
        return
    low, middle, high = (each for each in numbers if each is not None)
    slack = ROUNDING * max(1.0, abs(middle))
    if not (least - slack <= low and high <= most + slack):
        yield (
            f"{name} = {middle:g} ({low:g} to {high:g}), which cannot be outside "
            f"[{least:g}, {most:g}]"
        )
    if not low - slack <= middle <= high + slack:
        yield f"{name} = {middle:g}, which its interval {low:g} to {high:g} does not contain"


def _uncountable(record: Record, metrics: Metrics) -> Iterator[str]:
    """Yield shares that no number of individuals gives."""
    individuals, batches = record.cell.individuals, ResolvedCell.of(record.cell).updates
    shares: dict[str, tuple[float | None, int]] = {
        "diverged": (metrics.diverged, batches),
        "label_accuracy": (metrics.label_accuracy, individuals),
        "exact": (metrics.exact.value if metrics.exact else None, individuals),
    }
    if metrics.certificates:
        shares["certificates.share"] = metrics.certificates.share, individuals
    if metrics.images:
        shares["images.recognisable"] = metrics.images.recognisable.value, individuals
    for model, share in (metrics.deployed or {}).items():
        shares[f"deployed[{model!r}]"] = share, individuals
    for name, of in metrics.properties.items():
        for field in ("accuracy", "count_error"):
            shares[f"{name}.{field}"] = getattr(of, field).value, individuals
        shares[f"{name}.prevalence"] = of.prevalence, individuals
    for name, (value, of_how_many) in shares.items():
        if value is not None and not _is_whole(value * of_how_many):
            yield f"{name} = {value:g}, which is no share of {of_how_many}"


def _is_whole(count: float) -> bool:
    """Whether a count is a whole number; of what is not finite something else is said."""
    if not math.isfinite(count):
        return True
    return abs(count - round(count)) <= ROUNDING * max(1.0, abs(count))


def _inconsistent(record: Record, metrics: Metrics) -> Iterator[str]:
    """Yield numbers that cannot stand beside each other."""
    cell, individuals = record.cell, record.cell.individuals
    if list(metrics.properties) != list(cell.properties):
        yield f"metrics of {', '.join(metrics.properties)}, not of {', '.join(cell.properties)}"
    certificates = metrics.certificates
    if certificates and certificates.false > certificates.share * individuals + ROUNDING:
        yield (
            f"{certificates.false} false certificates of "
            f"{certificates.share * individuals:g} in all"
        )
    if (metrics.defense is None) != (cell.defense == "none"):
        yield f"defense {cell.defense!r}, and {'no ' * (metrics.defense is None)}cost of a defense"
    outputs = Knowledge.OUTPUTS in Knowledge.parse(record.knowledge)
    if outputs != (metrics.deployed is not None):
        yield "deployed models without knowledge of outputs, or the reverse"
    if (record.status == "diverged") != (metrics.diverged == 1):
        yield f"status {record.status!r}, and {metrics.diverged:.0%} of the batches diverged"
    for name, of in metrics.properties.items():
        if not _are_counts(of, individuals):
            yield (
                f"{name}: accuracy {of.accuracy.value} and balanced accuracy "
                f"{of.balanced_accuracy.value} at prevalence {of.prevalence:g}, which no numbers "
                f"of right answers give"
            )


def _are_counts(of: PropertyMetrics, individuals: int) -> bool:
    """Whether accuracy and balanced accuracy come from whole numbers of right answers.

    With a right answers for the n₁ who have the property and b for the n₀ who have not, accuracy is
    (a + b) / n and balanced accuracy (a / n₁ + b / n₀) / 2.
    """
    accuracy, balanced = of.accuracy.value, of.balanced_accuracy.value
    if not all(0 <= each <= 1 for each in (of.prevalence, accuracy or 0, balanced or 0)):
        # That alone is said of it.
        return True
    having = round(of.prevalence * individuals)
    lacking = individuals - having
    if accuracy is None or having <= 0 or lacking <= 0:
        # Where all have it, or nobody, sensitivity or specificity is of nobody.
        return balanced is None
    if balanced is None:
        return False
    right = round(accuracy * individuals)
    if having == lacking:
        return abs(accuracy - balanced) <= ROUNDING
    present = (2 * balanced - right / lacking) / (1 / having - 1 / lacking)
    absent = right - present
    # Solving for counts multiplies rounding by the larger group.
    slack = ROUNDING * individuals
    return (
        abs(present - round(present)) <= slack
        and -slack <= present <= having + slack
        and -slack <= absent <= lacking + slack
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
