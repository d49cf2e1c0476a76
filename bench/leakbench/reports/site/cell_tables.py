"""Tables of cells: a row for each cell and property, with all that was measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

from leakbench.experiments.cell import Cell
from leakbench.experiments.defense_labels import defense_text
from leakbench.experiments.descriptions import auxiliary_name, dataset_name, text_of
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.experiments.suite import SuiteEntry
from leakbench.metrics.estimates import Estimate, number, percent
from leakbench.records.measured import Measured
from leakbench.records.record import Metrics, PropertyMetrics, Record
from leakbench.reports.details import varying_parameters
from leakbench.reports.rows import MISSING, is_implied, task_name, varying_settings
from leakbench.reports.site.view import LINK, Column, Line, Place, TableView, place_of, slug
from leakbench.reports.summaries import COST, cost


def measured(record: Record) -> Measured:
    """Return a record as a cell of no suite, in a column that is its attack's."""
    resolved = ResolvedCell.of(record.cell)
    entry = SuiteEntry(resolved, record.key, "", "table1", resolved.attack.title)
    return Measured(entry, record)


def in_reading_order(records: Sequence[Record]) -> list[Record]:
    """Return records by attack, data, main task, batch size and defense."""

    def place(record: Record) -> tuple[object, ...]:
        cell = record.cell
        data = (cell.dataset, auxiliary_name(cell), cell.main_task, cell.batch_size)
        return (cell.attack, *data, cell.defense, defense_text(cell), record.key)

    return sorted(records, key=place)


@dataclass(frozen=True)
class _Shown:
    """A column of such a table: its heading and what stands in it."""

    column: Column
    place: Callable[[Measured, str], Place]


def every_cell(
    records: Sequence[Record], attack_paths: Mapping[str, str], remeasured: Set[str] = frozenset()
) -> TableView:
    """Return the table of all cells with what matters most, linked to the page of their attack.

    Args:
        attack_paths: attack → its page.
        remeasured: keys of records that were measured again, and agreed.
    """
    cells = [measured(record) for record in in_reading_order(records)]

    def record_place(m: Measured, name: str) -> Place:
        page = attack_paths[m.entry.cell.attack]
        return Place(m.entry.key[:SHORT], href=f"{page}#{row_name(m, name)}")

    shown = [
        _text("attack", lambda m: m.entry.column),
        *_setting(cells),
        _PROPERTY,
        _ACCURACY,
        _of_cell_column("exact, %", OF_CELLS["exact, %"]),
        _took("s/batch"),
        *_status(cells),
        _text("measured again", lambda m: "yes" if m.entry.key in remeasured else MISSING),
        _Shown(Column("record"), record_place),
        _Shown(LINK, lambda m, name: Place("#", href=f"#{row_name(m, name)}")),
    ]
    note = "Each record leads to its row in the page of its attack, with its settings and the rest."
    return _table("cells", "All cells, by property", cells, shown, (note,))


def cells_of(attack: str, records: Sequence[Record]) -> TableView:
    """Return the table of an attack's cells, with all settings in which they differ."""
    cells = [measured(r) for r in in_reading_order(records) if r.cell.attack == attack]
    entry = [m.entry for m in cells]
    leading = ("data set", "D_aux", "main task", "B", "defense", "level")
    fields = [f for f in varying_settings(entry, leading) if f in Cell.model_fields]
    parameters = varying_parameters(cells)

    def field_shown(field: str) -> _Shown:
        return _text(field, lambda m: text_of(getattr(m.entry.cell, field)))

    def parameter_shown(name: str) -> _Shown:
        return _text(name, lambda m: text_of(m.entry.cell.attack_parameters.get(name, MISSING)))

    versions = {m.record.attack_version for m in cells if m.record}
    grants = {m.record.knowledge for m in cells if m.record}
    knows = _text("knows", lambda m: ", ".join(m.record.knowledge) if m.record else MISSING)
    version = _text("version", lambda m: str(m.record.attack_version) if m.record else MISSING)
    shown = [
        *_setting(cells),
        _PROPERTY,
        *_results(cells),
        *map(_took, COST),
        *_status(cells),
        *([knows] if len(grants) > 1 else []),
        *([version] if len(versions) > 1 else []),
        *map(field_shown, fields),
        *map(parameter_shown, parameters),
        _Shown(
            Column("record"),
            lambda m, name: Place(m.entry.key[:SHORT], href=f"#{row_name(m, name)}"),
        ),
    ]
    return _table("cells", f"All cells of {cells[0].entry.column}", cells, shown)


SHORT, TELLING = 8, 12
"""Digits of a key that are shown, and that tell it from all others."""


def row_name(measured: Measured, name: str) -> str:
    """Return the name of the row of a cell and property."""
    return f"k{measured.entry.key[:TELLING]}-{slug(name)}"


def _table(
    identifier: str,
    caption: str,
    cells: Sequence[Measured],
    shown: Sequence[_Shown],
    notes: tuple[str, ...] = (),
) -> TableView:
    lines = [
        Line(row_name(m, name), tuple(each.place(m, name) for each in shown))
        for m in cells
        for name in m.entry.cell.properties
    ]
    columns = tuple(each.column for each in shown)
    return TableView(identifier, caption, columns, tuple(lines), notes)


def _text(heading: str, text: Callable[[Measured], str]) -> _Shown:
    return _Shown(Column(heading, filtered=True), lambda m, _: Place(text(m)))


_PROPERTY = _Shown(
    Column("property", filtered=True),
    lambda m, name: Place(name + ("†" if is_implied(m, name) else "")),
)


def _setting(cells: Sequence[Measured]) -> list[_Shown]:
    """Return the columns that say where a cell stands; D_aux only where it is not the clients'."""
    shown = [_text("data set", lambda m: dataset_name(m.entry.cell))]
    if any(m.entry.cell.auxiliary_dataset for m in cells):
        shown.append(_text("D_aux", lambda m: auxiliary_name(m.entry.cell)))
    return [
        *shown,
        _text("main task", task_name),
        _text("B", lambda m: str(m.entry.cell.batch_size)),
        _text("defense", lambda m: defense_text(m.entry.cell)),
    ]


def _of_property(heading: str, value: Callable[[PropertyMetrics], Estimate]) -> _Shown:
    def place(m: Measured, name: str) -> Place:
        metrics = m.record.metrics if m.record else None
        found = None if metrics is None else metrics.properties[name]
        return Place(MISSING) if found is None else place_of(percent(value(found)))

    return _Shown(Column(heading, "number"), place)


_ACCURACY = _of_property("balanced accuracy, %", lambda p: p.balanced_accuracy)


def _results(cells: Sequence[Measured]) -> list[_Shown]:
    """Return the columns of metrics, those excepted that no cell has."""
    shown = [_ACCURACY, _of_property("AUC, %", lambda p: p.auc)]
    for heading, text in OF_CELLS.items():
        if any(_of_cell(m, text) != MISSING for m in cells):
            shown.append(_of_cell_column(heading, text))
    return shown


def _of_cell_column(heading: str, text: Callable[[Metrics], str]) -> _Shown:
    return _Shown(Column(heading, "number"), lambda m, _: place_of(_of_cell(m, text)))


def _of_cell(measured: Measured, text: Callable[[Metrics], str]) -> str:
    metrics = measured.record.metrics if measured.record else None
    return MISSING if metrics is None else text(metrics)


def _share(estimate: Estimate | None) -> str:
    return MISSING if estimate is None else percent(estimate)


OF_CELLS: Mapping[str, Callable[[Metrics], str]] = {
    "feature cosine": lambda m: (
        MISSING if m.feature_cosine is None else number(m.feature_cosine, 3)
    ),
    "exact, %": lambda m: _share(m.exact),
    "certified, %": lambda m: (
        MISSING if m.certificates is None else f"{100 * m.certificates.share:.1f}"
    ),
    "membership AUC, %": lambda m: _share(m.membership.auc if m.membership else None),
    "PSNR, dB": lambda m: number(m.images.psnr, 1) if m.images else MISSING,
    "utility, %": lambda m: _share(m.defense.utility if m.defense else None),
    "diverged, %": lambda m: f"{100 * m.diverged:.0f}" if m.diverged else MISSING,
}
"""Metrics of a cell that are the same for all of its properties."""


def _took(heading: str) -> _Shown:
    """Return the column of one of `COST`."""
    place = COST.index(heading)
    return _Shown(
        Column(heading, "number"),
        lambda m, _: Place(MISSING if m.record is None else cost(m.record)[place]),
    )


def _status(cells: Sequence[Measured]) -> list[_Shown]:
    """Return the column of what became of a cell, with its error; none where all were done."""
    if all(m.record is None or m.record.status == "done" for m in cells):
        return []

    def place(m: Measured, _: str) -> Place:
        if m.record is None:
            return Place(MISSING)
        return Place(m.record.status, m.record.error or "")

    return [_Shown(Column("status", filtered=True), place)]
