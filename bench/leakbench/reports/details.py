"""All metrics of a suite, as the CSV file beside its report."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

import pandas as pd

from leakbench.experiments.cell import Cell
from leakbench.experiments.descriptions import text_of
from leakbench.metrics.catalogue import CELL_METRICS, PROPERTY_METRICS
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.formatting import MISSING
from leakbench.metrics.of_attacks import LABEL_ACCURACY
from leakbench.metrics.of_setups import DEPLOYED
from leakbench.metrics.spec import MetricSpec
from leakbench.records.data_frame import without_formula
from leakbench.records.measured import Measured
from leakbench.records.record import Metrics, Record
from leakbench.reports.columns import seconds_per_batch
from leakbench.reports.rows import leading_values, varying_settings

Value = str | float | None
"""Of a field; None leaves it empty."""


def csv_name(suite: str) -> str:
    """Return the name of the file that has all metrics of a suite."""
    return f"{suite}.csv"


@dataclass(frozen=True)
class Settings:
    """The leading columns: attack, settings in which cells differ, and parameters.

    Attributes:
        fields: settings, by name.
        parameters: parameters of attacks.
    """

    fields: tuple[str, ...]
    parameters: tuple[str, ...]

    @classmethod
    def of(cls, cells: Sequence[Measured]) -> Settings:
        """Return the columns that separate these cells."""
        leading = ("data set", "main task", "B")
        varying = varying_settings([m.entry for m in cells], leading)
        fields = (*leading, *(name for name in varying if name in Cell.model_fields))
        return cls(fields, tuple(varying_parameters(cells)))

    @property
    def headings(self) -> tuple[str, ...]:
        """Of the columns."""
        return ("attack", *self.fields, *self.parameters)

    def values(self, measured: Measured) -> tuple[str, ...]:
        """Return a cell's values in the columns."""
        given = measured.entry.cell.attack_parameters
        return (
            measured.entry.column,
            *leading_values(measured, "", self.fields),
            *(text_of(given.get(name, MISSING)) for name in self.parameters),
        )


def varying_parameters(cells: Sequence[Measured]) -> list[str]:
    """Return the parameters that have several values in a column: swept, or set by a group."""
    found: dict[str, dict[str, set[str]]] = {}
    for m in cells:
        for name, value in m.entry.cell.attack_parameters.items():
            found.setdefault(name, {}).setdefault(m.entry.column, set()).add(text_of(value))
    return [name for name, of in found.items() if any(len(values) > 1 for values in of.values())]


def details_csv(cells: Sequence[Measured]) -> str:
    """Return all metrics of a suite's cells as CSV; see `details`.

    Texts that spreadsheets would compute as formulas begin with `'`.
    """
    headings, rows = _table(cells)
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow(map(without_formula, headings))
    writer.writerows(
        [without_formula(each) if type(each) is str else each for each in row] for row in rows
    )
    return written.getvalue()


def details(cells: Sequence[Measured]) -> pd.DataFrame:
    """Return all metrics of a suite's cells, one row for each cell and property.

    A cell that failed has one row, without metrics; one without a record has none. Columns are the
    cell's groups, attack, and settings that differ between cells; what its attack knew; metrics of
    the cell and of the property, estimates with the ends of their 95 % intervals (`low`, `high`);
    its cost; its status and key. Headings have units; shares are in %. Columns without any value
    are left out.
    """
    headings, rows = _table(cells)
    # As objects, since integers with gaps would become floating point.
    return pd.DataFrame(list(rows), columns=headings, dtype=object)


def _table(cells: Sequence[Measured]) -> tuple[list[str], Iterator[list[Value]]]:
    """Return headings and rows; see `details`."""
    settings = Settings.of(cells)
    groups: dict[str, dict[str, None]] = {}
    for m in cells:
        groups.setdefault(m.entry.key, {})[m.entry.group] = None
    measured = [(m, m.record) for m in {m.entry.key: m for m in cells}.values() if m.record]
    models = dict.fromkeys(
        name
        for _, record in measured
        if record.metrics is not None
        for name in record.metrics.deployed or {}
    )
    leading = ["attack", *settings.fields, *(f"attack.{name}" for name in settings.parameters)]
    headings = [
        *("group", *leading, "knows", LABELS),
        *(*CELL_HEADINGS, *map(_deployed, models), *COST_HEADINGS),
        *("property", *PROPERTY_HEADINGS, "status", "key"),
    ]
    # Rows as lists, since a dictionary takes several times the memory.
    rows: list[list[Value]] = []
    no_property: list[Value] = [None] * (1 + len(PROPERTY_HEADINGS))
    for m, record in measured:
        of_cell: list[Value] = [
            "; ".join(groups[m.entry.key]),
            *(None if text == MISSING else text for text in settings.values(m)),
            ", ".join(record.knowledge),
            *_of_cell(record, models),
            *_cost(m),
        ]
        rows += [
            [*of_cell, *of_property, record.status, m.entry.key]
            for of_property in _of_properties(record) or [no_property]
        ]
    kept = [any(row[place] is not None for row in rows) for place in range(len(headings))]
    return list(compress(headings, kept)), (list(compress(row, kept)) for row in rows)


def _of_cell(record: Record, models: Iterable[str]) -> list[Value]:
    """Return how labels were known, the metrics of a cell, and those of deployed models.

    Args:
        models: that attacks of any cell deployed.
    """
    metrics = record.metrics
    if metrics is None:
        return [None, *(None for _ in CELL_HEADINGS), *(None for _ in models)]
    labels, found = None, _values(CELL_FIELDS, metrics)
    if metrics.label_accuracy is not None:
        granted = "labels" in record.knowledge
        labels = "granted" if granted else "inferred"
        if granted:
            found[CELL_HEADINGS.index(LABEL_ACCURACY.heading)] = None
    deployed = metrics.deployed or {}
    of_models = [
        _number(DEPLOYED, DEPLOYED.value(metrics, name)) if name in deployed else None
        for name in models
    ]
    return [labels, *found, *of_models]


def _of_properties(record: Record) -> list[list[Value]]:
    """Return each property of a cell with its metrics."""
    metrics = record.metrics
    if metrics is None:
        return []
    return [[name, *_values(PROPERTY_FIELDS, metrics, name)] for name in metrics.properties]


def _cost(measured: Measured) -> tuple[Value, ...]:
    cost, seconds = measured.cost, seconds_per_batch(measured)
    if cost is None or seconds is None:
        return (None,) * len(COST_HEADINGS)
    return (round(cost.steps), float(f"{seconds:.4g}"), round(cost.peak_memory_mib))


def _values(fields: Sequence[Fields], metrics: Metrics, name: str = "") -> list[Value]:
    """Return metrics in the order of their headings, estimates with the ends of their intervals.

    Args:
        name: the property.
    """
    found: list[Value] = []
    for spec, headings in fields:
        value = spec.value(metrics, name)
        if isinstance(value, Estimate):
            number, low, high = value.value, value.low, value.high
            assert len(headings) == len(("number", "low", "high"))
            if spec.unit == "%" and number is not None and low is not None and high is not None:
                found += (_in_percent(number), _in_percent(low), _in_percent(high))
            else:
                found += (_number(spec, number), _number(spec, low), _number(spec, high))
        else:
            found.append(_number(spec, value))
            found += [None] * (len(headings) - 1)
    return found


def _headings(spec: MetricSpec) -> list[str]:
    """Return the headings of a metric: of its value and, where it has one, of its interval."""
    unit = f", {spec.unit}" if spec.unit else ""
    return [f"{spec.title}{end}{unit}" for end in ("", *([" low", " high"] * bool(spec.interval)))]


def _deployed(name: str) -> str:
    """Return the heading of the accuracy of a model that the server deployed."""
    return f"deployed for {name}, {DEPLOYED.unit}"


def _number(spec: MetricSpec, value: Any) -> Value:
    """Return a number of a metric, in the unit of its heading."""
    if value is None or isinstance(value, bool):
        return None if value is None else str(value).lower()
    if spec.form == ".0f" and not spec.unit:
        whole: int = round(value)
        return whole
    return _in_percent(value) if spec.unit == "%" else float(f"{value:.6g}")


def _in_percent(share: float) -> float:
    """Return a share in percent; records have six digits, which multiplying must not blur."""
    return round(100.0 * share, 4)


LABELS = "labels were"
"""The heading of what an attack that uses labels knew of them: `granted` or `inferred`."""

COST_HEADINGS = ("steps per batch", "time per batch, s", "peak memory, MiB")

PROPERTY_COLUMNS = [spec for spec in PROPERTY_METRICS if spec.exported]
CELL_COLUMNS = [spec for spec in CELL_METRICS if spec.exported]

Fields = tuple[MetricSpec, list[str]]
"""A metric and its headings."""

PROPERTY_FIELDS: list[Fields] = [(spec, _headings(spec)) for spec in PROPERTY_COLUMNS]
CELL_FIELDS: list[Fields] = [(spec, _headings(spec)) for spec in CELL_COLUMNS]
PROPERTY_HEADINGS = [heading for _, headings in PROPERTY_FIELDS for heading in headings]
CELL_HEADINGS = [heading for _, headings in CELL_FIELDS for heading in headings]
