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
