"""Columns of tables: a heading, and what a record shows under it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from leakbench.metrics.catalogue import CELL_METRICS, PROPERTY_METRICS
from leakbench.metrics.formatting import MISSING
from leakbench.metrics.spec import MetricSpec
from leakbench.records.measured import Measured
from leakbench.records.record import Metrics, Record


@dataclass(frozen=True)
class CostColumn:
    """A column on the cost of cells.

    Attributes:
        heading: of the column.
        text: returns what it shows of a cell.
    """

    heading: str
    text: Callable[[Measured], str]


def property_metrics(records: Iterable[Record]) -> list[MetricSpec]:
    """Return the metrics of a property that tables of these cells show, in their order.

    A metric that was added later is left out where no record has it.
    """
    return _shown(PROPERTY_METRICS, records)


def cell_metrics(records: Iterable[Record]) -> list[MetricSpec]:
    """Return the metrics of a cell that tables of these cells show; see above."""
    return _shown(CELL_METRICS, records)


def _shown(specs: Iterable[MetricSpec], records: Iterable[Record]) -> list[MetricSpec]:
    metrics = [record.metrics for record in records if record.metrics is not None]
    shown = [spec for spec in specs if spec.in_cell_tables]
    later = present([spec for spec in shown if spec.optional == "later"], metrics)
    return [spec for spec in shown if spec.optional != "later" or spec in later]


def present(specs: Iterable[MetricSpec], metrics: Iterable[Metrics]) -> set[MetricSpec]:
    """Return those of some metrics that one of these records' metrics has."""
    absent: dict[str, list[MetricSpec]] = {}
    for spec in specs:
        absent.setdefault(spec.fields[0], []).append(spec)
    found: set[MetricSpec] = set()
    for each in metrics:
        # What no record has is sought in all of them, and most of that where a whole part is None.
        for part in [part for part in absent if getattr(each, part) is not None]:
            names = each.properties if part == "properties" else ("",)
            new = {
                spec
                for spec in absent[part]
                if any(spec.value(each, name) is not None for name in names)
            }
            if new:
                found |= new
                absent[part] = [spec for spec in absent[part] if spec not in new]
                if not absent[part]:
                    del absent[part]
    return found


def _steps(measured: Measured) -> str:
    cost = measured.cost
    return MISSING if cost is None else f"{cost.steps:.0f}"


def _seconds(measured: Measured) -> str:
    seconds = seconds_per_batch(measured)
    return MISSING if seconds is None else f"{seconds:.3g}"


def _memory(measured: Measured) -> str:
    cost = measured.cost
    return MISSING if cost is None else f"{cost.peak_memory_mib:.0f}"


STEPS = CostColumn("steps", _steps)
SECONDS = CostColumn("s/batch", _seconds)
MEMORY = CostColumn("MiB", _memory)

COST = (STEPS, SECONDS, MEMORY)
"""The cost of a cell: gradient evaluations and seconds per batch, and peak memory."""


def seconds_per_batch(measured: Measured) -> float | None:
    """Return the wall time of an attack per victim batch, in seconds; None if not measured."""
    cost = measured.cost
    return None if cost is None else cost.seconds / measured.entry.resolved.updates
