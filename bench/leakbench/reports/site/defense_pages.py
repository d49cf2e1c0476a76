"""A page for each defense: what leaks under it, and its utility cost."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from leakbench.base.registry import ATTACKS, DEFENSES
from leakbench.experiments.defense_labels import defense_level
from leakbench.experiments.descriptions import dataset_name as data_set
from leakbench.experiments.descriptions import text_of
from leakbench.experiments.plugin_catalogue import PARAMETER_HEADINGS, parameters
from leakbench.federation.defense import Defense
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.formatting import MISSING
from leakbench.metrics.of_properties import BALANCED_ACCURACY
from leakbench.metrics.of_setups import DISTORTION, EPSILON, UTILITY, UTILITY_LOST
from leakbench.metrics.spec import MetricSpec
from leakbench.records.folder import RecordFolder
from leakbench.records.measured import Measured
from leakbench.reports.rows import is_implied, task_name, varying_settings
from leakbench.reports.site.cell_tables import SHORT, measured, row_name
from leakbench.reports.site.chart import MARGINS, Chart, batch_sizes, charts
from leakbench.reports.site.defended import Defended, defended
from leakbench.reports.site.view import (
    LINK,
    Column,
    Page,
    RowView,
    TableView,
    ValueView,
    made_unique,
    number_view,
    plain_table,
    slug,
    with_code,
)
from leakbench.reports.summaries import Summary

UNDEFENDED = "none"


@dataclass(frozen=True)
class ChartsView:
    """The charts of one setting.

    Attributes:
        setting: as text.
        sizes: its batch sizes, in the order of the marks' series.
        charts: one per property.
    """

    setting: str
    sizes: Sequence[int]
    charts: Sequence[Chart]


@dataclass(frozen=True)
class DefenseView:
    """The content of a defense's page.

    Attributes:
        name, reference, about: the defense's.
        summary: its documentation's first line.
        parameters: a table; None where it has none.
        charts: leakage against utility, by setting.
        levels: how many were measured.
        table: all attacks that were measured.
    """

    name: str
    reference: str
    about: Markup
    summary: str
    parameters: TableView | None
    charts: Sequence[ChartsView]
    levels: int
    table: TableView


def defense_pages(folder: RecordFolder, attack_paths: Mapping[str, str]) -> list[Page]:
    """Return the list of defenses and the page of each that an attack was measured under."""
    records = list(folder.records.values())
    rows = {
        name: defended(name, records)
        for name in sorted({record.cell.defense for record in records} - {UNDEFENDED})
    }
    rows = {name: of for name, of in rows.items() if of}
    slugs = made_unique([slug(name) for name in rows])
    paths = {name: f"defense-{each}.html" for name, each in zip(rows, slugs, strict=True)}
    views = {name: _view(name, of, attack_paths) for name, of in rows.items()}
    pages = [
        Page(path, "defense.html", f"Defense {name}", {"defense": views[name], **MARGINS})
        for name, path in paths.items()
    ]
    listed = {"listed": _list(views, paths)}
    return [Page("defenses.html", "list.html", "Defenses", listed), *pages]


def _list(views: Mapping[str, DefenseView], paths: Mapping[str, str]) -> TableView:
    columns = (
        Column("defense"),
        Column("what it does"),
        Column("levels", "number"),
        Column("rows", "number"),
        Column("reference"),
    )
    rows = []
    for name, view in views.items():
        values = (
            ValueView(name, href=paths[name]),
            ValueView(view.summary),
            ValueView(str(view.levels)),
            ValueView(str(len(view.table.rows))),
            ValueView(view.reference),
        )
        rows.append(RowView(f"defense-{slug(name)}", values))
    caption = "Defenses that attacks were measured under"
    return TableView("defenses", caption, columns, tuple(rows))


def _view(name: str, rows: Sequence[Defended], attack_paths: Mapping[str, str]) -> DefenseView:
    defense: type[Defense] = DEFENSES.get(name)
    known = parameters(defense)
    return DefenseView(
        name=name,
        reference=defense.reference,
        about=with_code(inspect.getdoc(defense) or ""),
        summary=(inspect.getdoc(defense) or "").split("\n")[0],
        parameters=plain_table("parameters", "Parameters", Summary(PARAMETER_HEADINGS, known))
        if known
        else None,
        charts=_charts(rows),
        levels=len({defense_level(row.record.cell) for row in rows}),
        table=_table(name, rows, attack_paths),
    )


def _charts(rows: Sequence[Defended]) -> list[ChartsView]:
    """Return charts for each setting; batch sizes and levels share a chart."""
    cells = [measured(row.record) for row in rows]
    fields = _settings(cells)
    by_setting: dict[str, list[Defended]] = {}
    for row, m in zip(rows, cells, strict=True):
        by_setting.setdefault(_setting_text(m, fields), []).append(row)
    views = [ChartsView(setting, batch_sizes(of), charts(of)) for setting, of in by_setting.items()]
    return [view for view in views if view.charts]


def _settings(cells: Sequence[Measured]) -> list[str]:
    """Return the settings in which cells differ, besides those that the table always shows."""
    leading = ("data set", "main task", "B", "defense", "level")
    return varying_settings([m.entry for m in cells], leading)


def _setting_text(measured: Measured, fields: Sequence[str]) -> str:
    cell = measured.entry.cell
    others = [f"{field} = {text_of(getattr(cell, field))}" for field in fields]
    return "; ".join([data_set(cell), task_name(measured), *others])


@dataclass(frozen=True)
class _Column:
    """A column of a defense's table, and what it shows of a row."""

    column: Column
    value: Callable[[Defended], ValueView]


def _table(name: str, rows: Sequence[Defended], attack_paths: Mapping[str, str]) -> TableView:
    fields = _settings([measured(row.record) for row in rows])
    columns = _columns(fields, attack_paths)
    return TableView(
        "cells",
        f"Leakage against utility under {name}",
        tuple(each.column for each in columns),
        tuple(RowView(_identifier(row), tuple(c.value(row) for c in columns)) for row in rows),
    )


def _identifier(row: Defended) -> str:
    return row_name(measured(row.record), row.name)


def _columns(fields: Sequence[str], attack_paths: Mapping[str, str]) -> list[_Column]:
    def attack(row: Defended) -> ValueView:
        name = row.record.cell.attack
        return ValueView(ATTACKS.get(name).title, href=attack_paths[name])

    def record(row: Defended) -> ValueView:
        page = attack_paths[row.record.cell.attack]
        return ValueView(row.record.key[:SHORT], href=f"{page}#{_identifier(row)}")

    def setting(field: str) -> _Column:
        return _text(field, lambda row: text_of(getattr(row.record.cell, field)))

    return [
        _text("data set", lambda row: data_set(row.record.cell)),
        _text("main task", lambda row: task_name(measured(row.record))),
        _text("B", lambda row: str(row.record.cell.batch_size)),
        _text("level", lambda row: defense_level(row.record.cell) or MISSING),
        _Column(Column("attack", filtered=True), attack),
        _text(
            "knows the defense", lambda row: "yes" if "defense" in row.record.knowledge else "no"
        ),
        _text("property", _property),
        _number(BALANCED_ACCURACY.heading, lambda row: row.accuracy),
        _Column(Column("best baseline, %", "number", control=True), _baseline),
        _number("advantage", lambda row: row.advantage),
        _number("without defense, %", lambda row: row.undefended),
        _cost(UTILITY.heading, UTILITY),
        _cost(UTILITY_LOST.title, UTILITY_LOST),
        _cost(DISTORTION.heading, DISTORTION),
        _cost(EPSILON.heading, EPSILON),
        *map(setting, fields),
        _Column(Column("record"), record),
        _Column(LINK, lambda row: ValueView("#", href=f"#{_identifier(row)}")),
    ]


def _text(heading: str, text: Callable[[Defended], str]) -> _Column:
    return _Column(Column(heading, filtered=True), lambda row: ValueView(text(row)))


def _property(row: Defended) -> str:
    return row.name + ("†" if is_implied(measured(row.record), row.name) else "")


def _baseline(row: Defended) -> ValueView:
    """Return the balanced accuracy of a row's baseline, and which it is."""
    if row.baseline is None:
        return ValueView(MISSING)
    number = BALANCED_ACCURACY.format(row.baseline.estimate)
    return ValueView(number.value, " ".join(filter(None, (number.detail, row.baseline.title))))


def _number(heading: str, estimate: Callable[[Defended], Estimate | None]) -> _Column:
    """Return a column of balanced accuracies, or of differences between them."""
    return _Column(
        Column(heading, "number"),
        lambda row: number_view(BALANCED_ACCURACY.format(estimate(row))),
    )


def _cost(heading: str, spec: MetricSpec) -> _Column:
    return _Column(
        Column(heading, "number"), lambda row: number_view(spec.text(row.record.metrics))
    )
