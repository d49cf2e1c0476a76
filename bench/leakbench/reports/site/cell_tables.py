"""Tables of cells: a row for each cell and property, with the metrics of the catalogue."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from leakbench.experiments.cell import Cell
from leakbench.experiments.defense_labels import defense_text
from leakbench.experiments.descriptions import auxiliary_name, dataset_name, text_of
from leakbench.metrics.formatting import MISSING
from leakbench.metrics.of_attacks import EXACT_SHARE
from leakbench.metrics.of_properties import BALANCED_ACCURACY
from leakbench.metrics.spec import MetricSpec, Value
from leakbench.records.measured import Measured
from leakbench.records.verified import Remeasured
from leakbench.reports.columns import (
    COST,
    SECONDS,
    CostColumn,
    cell_metrics,
    property_metrics,
)
from leakbench.reports.details import varying_parameters
from leakbench.reports.rows import is_implied, task_name, varying_settings
from leakbench.reports.site.paged import PagedColumn, PagedTable, without_constant
from leakbench.reports.site.view import (
    LINK,
    Column,
    ValueView,
    number_view,
    slug,
)

Row = tuple[Measured, str]
"""A cell, and the property that the row is of."""

_Column = PagedColumn[Row]


@dataclass(frozen=True)
class CellTable(PagedTable[Row]):
    """A table of cells, a row for each property."""

    def places(self) -> dict[str, str]:
        """Return the name of each row → the path of the page that has it."""
        return {self.identifier(row): self.path_of_row(i) for i, row in enumerate(self.items)}


def every_cell(
    cells: Sequence[Measured],
    places: Mapping[str, str],
    remeasured: Mapping[str, Remeasured],
) -> CellTable:
    """Return the table of all cells with the main metrics, linked to the page of their attack.

    Args:
        places: name of a row → the page that has it in the table of its attack.
        remeasured: by key, what came of measuring records again.
    """

    def record(row: Row) -> ValueView:
        name = _row_name(row)
        return ValueView(row[0].entry.key[:SHORT], href=f"{places[name]}#{name}")

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
        _Column(LINK, lambda row: ValueView("#", href=f"#{_row_name(row)}")),
    ]
    note = "Each record links to its row on its attack's page, with all settings and metrics."
    return _table("cells.html", "All cells, by property", cells, columns, (note,))


def cells_of(path: str, cells: Sequence[Measured]) -> CellTable:
    """Return the table of an attack's cells, with all settings in which they differ.

    Args:
        path: of the attack's page.
        cells: of the attack, at least one.
    """
    entries = [m.entry for m in cells]
    leading = ("data set", "D_aux", "main task", "B", "defense", "level")
    fields = [f for f in varying_settings(entries, leading) if f in Cell.model_fields]
    parameters = varying_parameters(cells)

    def of_field(field: str) -> _Column:
        values = [getattr(m.entry.cell, field) for m in cells]
        if not all(isinstance(each, dict) for each in values):
            return _text(field, lambda m: text_of(getattr(m.entry.cell, field)))
        # Of parameters, those in which cells differ.
        names = dict.fromkeys(name for each in values for name in each)
        differing = [n for n in names if len({text_of(each.get(n)) for each in values}) > 1]

        def text(m: Measured) -> str:
            of_cell = getattr(m.entry.cell, field)
            return text_of({name: of_cell[name] for name in differing if name in of_cell})

        return _text(field, text)

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
            lambda row: ValueView(row[0].entry.key[:SHORT], href=f"#{_row_name(row)}"),
        ),
    ]
    return _table(path, f"All cells of {cells[0].entry.column}", cells, columns)


SHORT, UNIQUE = 8, 12
"""Digits of a key that are shown, and that are unique among keys."""


def row_name(key: str, name: str) -> str:
    """Return the name of the row of a cell, by its key, and property."""
    return f"k{key[:UNIQUE]}-{slug(name)}"


def _row_name(row: Row) -> str:
    return row_name(row[0].entry.key, row[1])


def _table(
    path: str,
    caption: str,
    cells: Sequence[Measured],
    columns: Sequence[_Column],
    notes: tuple[str, ...] = (),
) -> CellTable:
    rows = [(m, name) for m in cells for name in m.entry.cell.properties]
    shown, constant = without_constant(rows, columns)
    return CellTable(path, caption, rows, _row_name, shown, (*constant, *notes))


def _text(heading: str, text: Callable[[Measured], str]) -> _Column:
    return _Column(Column(heading, filtered=True), lambda row: ValueView(text(row[0])), _cell)


def _row(row: Row) -> Row:
    return row


def _cell(row: Row) -> Measured:
    return row[0]


_PROPERTY = _Column(
    Column("property", filtered=True),
    lambda row: ValueView(row[1] + ("†" if is_implied(*row) else "")),
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
        spec for spec in cell_metrics(records) if any(_shown(spec, m) is not None for m in cells)
    ]
    return [*property_metrics(records), *of_cells]


def _shown(spec: MetricSpec, measured: Measured, name: str = "") -> Value:
    """Return the value of a metric; None where there is none, or where a 0 is not shown."""
    value = spec.value(measured.record.metrics, name) if measured.record else None
    return None if spec.hides_zero and value == 0 else value


def _metric(spec: MetricSpec) -> _Column:
    return _Column(
        Column(spec.heading, "number"),
        lambda row: number_view(spec.format(_shown(spec, *row))),
        # Each row is a part of its own where the metric is one of its property.
        _row if spec.is_per_property else _cell,
    )


def _cost(column: CostColumn) -> _Column:
    heading = Column(column.heading, "number")
    return _Column(heading, lambda row: ValueView(column.text(row[0])), _cell)


def _status(cells: Sequence[Measured]) -> list[_Column]:
    """Return the column of cells' status with their error; none where all are done."""
    if all(m.record is None or m.record.status == "done" for m in cells):
        return []

    def status(row: Row) -> ValueView:
        record = row[0].record
        return ValueView(record.status, record.error or "") if record else ValueView(MISSING)

    return [_Column(Column("status", filtered=True), status)]
