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
from leakbench.records.measured import Measured
from leakbench.reports.rows import is_implied, task_name, varying_settings
from leakbench.reports.site.cell_tables import SHORT, row_name
from leakbench.reports.site.chart import MARGINS, Chart, batch_sizes, charts
from leakbench.reports.site.defended import Defended, by_defense
from leakbench.reports.site.paged import PagedColumn, PagedTable, without_constant
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

CHARTED = 40
"""Settings of which a page has charts; each has one for every property."""


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
        charts: leakage against utility, of the first settings.
        uncharted: how many settings have no chart, since there are too many.
        levels: how many were measured.
        table: all attacks that were measured.
    """

    name: str
    reference: str
    about: Markup
    summary: str
    parameters: TableView | None
    charts: Sequence[ChartsView]
    uncharted: int
    levels: int
    table: PagedTable[Defended]


def defense_pages(cells: Sequence[Measured], places: Mapping[str, str]) -> list[Page]:
    """Return the list of defenses and the page of each that an attack was measured under.

    Args:
        cells: in reading order.
        places: name of a row → the page that has it in the table of its attack.
    """
    by_key = {m.entry.key: m for m in cells}
    found = by_defense([m.record for m in cells if m.record is not None])
    rows = dict(sorted(found.items()))
    slugs = made_unique([slug(name) for name in rows])
    paths = {name: f"defense-{each}.html" for name, each in zip(rows, slugs, strict=True)}
    views = {name: _view(name, of, paths[name], by_key, places) for name, of in rows.items()}
    pages = [Page("defenses.html", "list.html", "Defenses", {"listed": _list(views)})]
    for name, view in views.items():
        title = f"Defense {name}"
        pages.append(Page(paths[name], "defense.html", title, {"defense": view, "size": MARGINS}))
        pages += view.table.pages(title, since=2)
    return pages


def _list(views: Mapping[str, DefenseView]) -> TableView:
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
            ValueView(name, href=view.table.path),
            ValueView(view.summary),
            ValueView(str(view.levels)),
            ValueView(str(len(view.table.items))),
            ValueView(view.reference),
        )
        rows.append(RowView(f"defense-{slug(name)}", values))
    caption = "Defenses that attacks were measured under"
    return TableView("defenses", caption, columns, tuple(rows))


def _view(
    name: str,
    rows: Sequence[Defended],
    path: str,
    by_key: Mapping[str, Measured],
    places: Mapping[str, str],
) -> DefenseView:
    defense: type[Defense] = DEFENSES.get(name)
    known = parameters(defense)
    cells = [by_key[row.record.key] for row in rows]
    fields = _settings(cells)
    charted, uncharted = _charts(rows, cells, fields)
    shown, constant = without_constant(rows, _columns(fields, by_key, places))
    return DefenseView(
        name=name,
        reference=defense.reference,
        about=with_code(inspect.getdoc(defense) or ""),
        summary=(inspect.getdoc(defense) or "").split("\n")[0],
        parameters=plain_table("parameters", "Parameters", Summary(PARAMETER_HEADINGS, known))
        if known
        else None,
        charts=charted,
        uncharted=uncharted,
        levels=len({defense_level(row.record.cell) for row in rows}),
        table=PagedTable(
            path,
            f"Leakage against utility under {name}",
            rows,
            _identifier,
            shown,
            tuple(constant),
        ),
    )


def _charts(
    rows: Sequence[Defended], cells: Sequence[Measured], fields: Sequence[str]
) -> tuple[list[ChartsView], int]:
    """Return charts of the first settings, and the number of the others.

    Batch sizes and levels share a chart.

    Args:
        cells: of the rows.
        fields: the settings in which they differ.
    """
    by_setting: dict[str, list[Defended]] = {}
    for row, m in zip(rows, cells, strict=True):
        by_setting.setdefault(_setting_text(m, fields), []).append(row)
    first = list(by_setting.items())[:CHARTED]
    views = [ChartsView(setting, batch_sizes(of), charts(of)) for setting, of in first]
    return [view for view in views if view.charts], len(by_setting) - len(first)


def _settings(cells: Sequence[Measured]) -> list[str]:
    """Return the settings in which cells differ, besides those that the table always shows."""
    leading = ("data set", "main task", "B", "defense", "level")
    return varying_settings([m.entry for m in cells], leading)


def _setting_text(measured: Measured, fields: Sequence[str]) -> str:
    cell = measured.entry.cell
    others = [f"{field} = {text_of(getattr(cell, field))}" for field in fields]
    return "; ".join([data_set(cell), task_name(measured), *others])


_Column = PagedColumn[Defended]


def _identifier(row: Defended) -> str:
    return row_name(row.record.key, row.name)


def _columns(
    fields: Sequence[str], by_key: Mapping[str, Measured], places: Mapping[str, str]
) -> list[_Column]:
    def attack(row: Defended) -> ValueView:
        title = ATTACKS.get(row.record.cell.attack).title
        return ValueView(title, href=places[_identifier(row)])

    def record(row: Defended) -> ValueView:
        name = _identifier(row)
        return ValueView(row.record.key[:SHORT], href=f"{places[name]}#{name}")

    def shown_property(row: Defended) -> str:
        return row.name + ("†" if is_implied(by_key[row.record.key], row.name) else "")

    def setting(field: str) -> _Column:
        return _text(field, lambda row: text_of(getattr(row.record.cell, field)))

    return [
        _text("data set", lambda row: data_set(row.record.cell)),
        _text("main task", lambda row: task_name(by_key[row.record.key])),
        _text("B", lambda row: str(row.record.cell.batch_size)),
        _text("level", lambda row: defense_level(row.record.cell) or MISSING),
        _Column(Column("attack", filtered=True), attack),
        _text(
            "knows the defense", lambda row: "yes" if "defense" in row.record.knowledge else "no"
        ),
        _Column(Column("property", filtered=True), lambda row: ValueView(shown_property(row))),
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
    """Return a column of texts on the cell, made once for all of its properties."""
    return _Column(Column(heading, filtered=True), lambda row: ValueView(text(row)), _record)


def _record(row: Defended) -> object:
    return row.record


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
        Column(heading, "number"),
        lambda row: number_view(spec.text(row.record.metrics)),
        _record,
    )
