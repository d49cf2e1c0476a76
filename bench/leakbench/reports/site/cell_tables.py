"""Tables of cells: a row for each cell and property, with the metrics of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from leakbench.experiments.cell import Cell
from leakbench.experiments.defense_labels import defense_text
from leakbench.experiments.descriptions import auxiliary_name, dataset_name, text_of
from leakbench.experiments.expansion import SuiteEntry
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics.formatting import MISSING
from leakbench.metrics.of_attacks import EXACT_SHARE
from leakbench.metrics.of_properties import BALANCED_ACCURACY
from leakbench.metrics.spec import MetricSpec, Value
from leakbench.records.measured import Measured
from leakbench.records.record import Record
from leakbench.records.verified import Remeasured
from leakbench.reports.columns import (
    COST,
    SECONDS,
    RecordColumn,
    cell_metrics,
    property_metrics,
)
from leakbench.reports.details import varying_parameters
from leakbench.reports.rows import is_implied, task_name, varying_settings
from leakbench.reports.site.view import (
    LINK,
    Column,
    RowView,
    TableView,
    ValueView,
    number_view,
    slug,
)


def measured(record: Record) -> Measured:
    """Return a record as an entry of no suite, in a column with its attack's title."""
    resolved = ResolvedCell.of(record.cell)
    entry = SuiteEntry(resolved, record.key, "", "table1", resolved.attack.title)
    return Measured(entry, record)


def in_reading_order(records: Sequence[Record]) -> list[Record]:
    """Return records by attack, data, main task, batch size and defense."""

    def order(record: Record) -> tuple[object, ...]:
        cell = record.cell
        data = (cell.dataset, auxiliary_name(cell), cell.main_task, cell.batch_size)
        return (cell.attack, *data, cell.defense, defense_text(cell), record.key)

    return sorted(records, key=order)


@dataclass(frozen=True)
class _Column:
    """A column of such a table, and what it shows of a cell and property."""

    column: Column
    value: Callable[[Measured, str], ValueView]


def every_cell(
    records: Sequence[Record],
    attack_paths: Mapping[str, str],
    remeasured: Mapping[str, Remeasured],
) -> TableView:
    """Return the table of all cells with the main metrics, linked to the page of their attack.

    Args:
        attack_paths: attack → its page.
        remeasured: by key, what came of measuring records again.
    """
    cells = [measured(record) for record in in_reading_order(records)]

    def record(m: Measured, name: str) -> ValueView:
        page = attack_paths[m.entry.cell.attack]
        return ValueView(m.entry.key[:SHORT], href=f"{page}#{row_name(m, name)}")

    def again(m: Measured) -> str:
        return remeasured[m.entry.key].outcome if m.entry.key in remeasured else MISSING

    columns = [
        _text("attack", lambda m: m.entry.column),
        *_setting(cells),
        _PROPERTY,
        _metric(BALANCED_ACCURACY),
        _metric(EXACT_SHARE),
        _cost(SECONDS),
        *_status(cells),
        _text("measured again", again),
        _Column(Column("record"), record),
        _Column(LINK, lambda m, name: ValueView("#", href=f"#{row_name(m, name)}")),
    ]
    note = "Each record links to its row on its attack's page, with all settings and metrics."
    return _table("cells", "All cells, by property", cells, columns, (note,))


def cells_of(attack: str, records: Sequence[Record]) -> TableView:
    """Return the table of an attack's cells, with all settings in which they differ."""
    cells = [measured(r) for r in in_reading_order(records) if r.cell.attack == attack]
    entries = [m.entry for m in cells]
    leading = ("data set", "D_aux", "main task", "B", "defense", "level")
    fields = [f for f in varying_settings(entries, leading) if f in Cell.model_fields]
    parameters = varying_parameters(cells)

    def of_field(field: str) -> _Column:
        return _text(field, lambda m: text_of(getattr(m.entry.cell, field)))

    def of_parameter(name: str) -> _Column:
        return _text(name, lambda m: text_of(m.entry.cell.attack_parameters.get(name, MISSING)))

    versions = {m.record.attack_version for m in cells if m.record}
    grants = {m.record.knowledge for m in cells if m.record}
    knows = _text("knows", lambda m: ", ".join(m.record.knowledge) if m.record else MISSING)
    version = _text("version", lambda m: str(m.record.attack_version) if m.record else MISSING)
    columns = [
        *_setting(cells),
        _PROPERTY,
        *map(_metric, _metrics(cells)),
        *map(_cost, COST),
        *_status(cells),
        *([knows] if len(grants) > 1 else []),
        *([version] if len(versions) > 1 else []),
        *map(of_field, fields),
        *map(of_parameter, parameters),
        _Column(
            Column("record"),
            lambda m, name: ValueView(m.entry.key[:SHORT], href=f"#{row_name(m, name)}"),
        ),
    ]
    return _table("cells", f"All cells of {cells[0].entry.column}", cells, columns)


SHORT, UNIQUE = 8, 12
"""Digits of a key that are shown, and that are unique among keys."""


def row_name(measured: Measured, name: str) -> str:
    """Return the name of the row of a cell and property."""
    return f"k{measured.entry.key[:UNIQUE]}-{slug(name)}"


def _table(
    identifier: str,
    caption: str,
    cells: Sequence[Measured],
    columns: Sequence[_Column],
    notes: tuple[str, ...] = (),
) -> TableView:
    rows = [
        RowView(row_name(m, name), tuple(each.value(m, name) for each in columns))
        for m in cells
        for name in m.entry.cell.properties
    ]
    return TableView(
        identifier, caption, tuple(each.column for each in columns), tuple(rows), notes
    )


def _text(heading: str, text: Callable[[Measured], str]) -> _Column:
    return _Column(Column(heading, filtered=True), lambda m, _: ValueView(text(m)))


_PROPERTY = _Column(
    Column("property", filtered=True),
    lambda m, name: ValueView(name + ("†" if is_implied(m, name) else "")),
)


def _setting(cells: Sequence[Measured]) -> list[_Column]:
    """Return the columns of a cell's setting; D_aux only where it is of another data set."""
    columns = [_text("data set", lambda m: dataset_name(m.entry.cell))]
    if any(m.entry.cell.auxiliary_dataset for m in cells):
        columns.append(_text("D_aux", lambda m: auxiliary_name(m.entry.cell)))
    return [
        *columns,
        _text("main task", task_name),
        _text("B", lambda m: str(m.entry.cell.batch_size)),
        _text("defense", lambda m: defense_text(m.entry.cell)),
    ]


def _metrics(cells: Sequence[Measured]) -> list[MetricSpec]:
    """Return the metrics of a table: those of properties, and of cells those that a cell shows."""
    records = [m.record for m in cells if m.record is not None]
    of_cells = [
        spec
        for spec in cell_metrics("cells", records)
        if any(_shown(spec, m) is not None for m in cells)
    ]
    return [*property_metrics("cells", records), *of_cells]


def _shown(spec: MetricSpec, measured: Measured, name: str = "") -> Value:
    """Return the value of a metric; None where there is none, or where a 0 is not shown."""
    value = spec.value(measured.record.metrics, name) if measured.record else None
    return None if spec.hides_zero and value == 0 else value


def _metric(spec: MetricSpec) -> _Column:
    return _Column(
        Column(spec.heading, "number"),
        lambda m, name: number_view(spec.format(_shown(spec, m, name))),
    )


def _cost(column: RecordColumn) -> _Column:
    return _Column(
        Column(column.heading, "number"),
        lambda m, _: ValueView(MISSING if m.record is None else column.text(m.record)),
    )


def _status(cells: Sequence[Measured]) -> list[_Column]:
    """Return the column of cells' status with their error; none where all are done."""
    if all(m.record is None or m.record.status == "done" for m in cells):
        return []

    def status(m: Measured, _: str) -> ValueView:
        if m.record is None:
            return ValueView(MISSING)
        return ValueView(m.record.status, m.record.error or "")

    return [_Column(Column("status", filtered=True), status)]
