"""Columns of tables: a heading, and what a record shows under it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics.catalogue import CELL_METRICS, PROPERTY_METRICS
from leakbench.metrics.formatting import MISSING
from leakbench.metrics.spec import MetricSpec
from leakbench.records.record import Metrics, Record


@dataclass(frozen=True)
class RecordColumn:
    """A column of a table with a row for each record.

    Attributes:
        heading: of the column.
        text: returns what it shows of a record.
    """

    heading: str
    text: Callable[[Record], str]


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
    return [
        spec
        for spec in specs
        if spec.in_cell_tables and (spec.optional != "later" or has_metric(spec, metrics))
    ]


def has_metric(spec: MetricSpec, metrics: Iterable[Metrics]) -> bool:
    """Whether one of these has a metric."""
    return any(
        spec.value(each, name) is not None
        for each in metrics
        for name in (each.properties if spec.is_per_property else ("",))
    )


def _steps(record: Record) -> str:
    return MISSING if record.cost is None else f"{record.cost.steps:.0f}"


def _seconds(record: Record) -> str:
    return MISSING if record.cost is None else f"{seconds_per_batch(record):.3g}"


def _memory(record: Record) -> str:
    return MISSING if record.cost is None else f"{record.cost.peak_memory_mib:.0f}"


STEPS = RecordColumn("steps", _steps)
SECONDS = RecordColumn("s/batch", _seconds)
MEMORY = RecordColumn("MiB", _memory)

COST = (STEPS, SECONDS, MEMORY)
"""The cost of a cell: gradient evaluations and seconds per batch, and peak memory."""


def seconds_per_batch(record: Record) -> float:
    """Return the wall time of an attack per victim batch, in seconds; NaN if not measured."""
    if record.cost is None:
        return float("nan")
    return record.cost.seconds / ResolvedCell.of(record.cell).updates
