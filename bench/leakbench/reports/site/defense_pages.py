"""A page for each defense: what leaks under it, and what it costs."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from leakbench.base.registry import ATTACKS, DEFENSES
from leakbench.experiments.defense_labels import defense_level
from leakbench.experiments.descriptions import dataset_name as data_set
from leakbench.experiments.descriptions import text_of
from leakbench.experiments.plugin_catalogue import PARAMETER_HEADINGS, parameters
from leakbench.federation.defense import Defense
from leakbench.metrics.estimates import Estimate, percent
from leakbench.records.folder import RecordFolder
from leakbench.records.measured import Measured
from leakbench.reports.rows import MISSING, is_implied, task_name, varying_settings
from leakbench.reports.site.cell_tables import SHORT, measured, row_name
from leakbench.reports.site.chart import MARGINS, Chart, batch_sizes, charts
from leakbench.reports.site.defended import Defended, defended
from leakbench.reports.site.view import (
    LINK,
    Column,
    Line,
    Page,
    Place,
    TableView,
    place_of,
    plain_table,
    slug,
    told_apart,
    with_code,
)
from leakbench.reports.summaries import Summary

UNDEFENDED = "none"


@dataclass(frozen=True)
class ChartsView:
    """The charts of one setting.

    Attributes:
        setting: which it is.
        sizes: its batch sizes, in the order of the marks' series.
        charts: one a property.
    """

    setting: str
    sizes: Sequence[int]
    charts: Sequence[Chart]


@dataclass(frozen=True)
class DefenseView:
    """What a page says of a defense.

    Attributes:
        name, reference, about: the defense's.
        summary: its documentation's first line.
        parameters: a table; None where it has none.
        charts: leakage against utility, by setting.
        levels: how many were measured.
        table: all that was measured.
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
    slugs = told_apart([slug(name) for name in rows])
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
    lines = []
    for name, view in views.items():
        texts = (view.summary, str(view.levels), str(len(view.table.lines)), view.reference)
        places = (Place(name, href=paths[name]), *map(Place, texts))
        lines.append(Line(f"defense-{slug(name)}", places))
    caption = "Defenses that attacks were measured under"
    return TableView("defenses", caption, columns, tuple(lines))


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
    """Return charts for each setting; batch sizes and levels stand in one."""
    cells = [measured(row.record) for row in rows]
    fields = _settings(cells)
    by_setting: dict[str, list[Defended]] = {}
    for row, m in zip(rows, cells, strict=True):
        by_setting.setdefault(_setting_words(m, fields), []).append(row)
    views = [ChartsView(setting, batch_sizes(of), charts(of)) for setting, of in by_setting.items()]
    return [view for view in views if view.charts]


def _settings(cells: Sequence[Measured]) -> list[str]:
    """Return the settings in which cells differ, besides what the table shows anyway."""
    leading = ("data set", "main task", "B", "defense", "level")
    return varying_settings([m.entry for m in cells], leading)


def _setting_words(measured: Measured, fields: Sequence[str]) -> str:
    cell = measured.entry.cell
    words = [f"{field} = {text_of(getattr(cell, field))}" for field in fields]
    return "; ".join([data_set(cell), task_name(measured), *words])


def _table(name: str, rows: Sequence[Defended], attack_paths: Mapping[str, str]) -> TableView:
    cells = [measured(row.record) for row in rows]
    fields = _settings(cells)
    columns = (
        Column("data set", filtered=True),
        Column("main task", filtered=True),
        Column("B", filtered=True),
        Column("level", filtered=True),
        Column("attack", filtered=True),
        Column("knows the defense", filtered=True),
        Column("property", filtered=True),
        Column("balanced accuracy, %", "number"),
        Column("blind, %", "number", control=True),
        Column("lead above blind", "number"),
        Column("without defense, %", "number"),
        Column("utility, %", "number"),
        Column("utility lost", "number"),
        Column("‖change‖/‖g‖", "number"),
        Column("ε", "number"),
        *(Column(field, filtered=True) for field in fields),
        Column("record"),
        LINK,
    )
    lines = tuple(
        Line(row_name(m, row.name), _places(row, m, fields, attack_paths))
        for row, m in zip(rows, cells, strict=True)
    )
    return TableView("cells", f"Leakage against utility under {name}", columns, lines)


def _places(
    row: Defended, m: Measured, fields: Sequence[str], attack_paths: Mapping[str, str]
) -> tuple[Place, ...]:
    cell, price = row.record.cell, row.price
    identifier = row_name(m, row.name)
    change = None if price is None else price.distortion.value
    epsilon = None if price is None else price.epsilon
    return (
        Place(data_set(cell)),
        Place(task_name(m)),
        Place(str(cell.batch_size)),
        Place(defense_level(cell) or MISSING),
        Place(ATTACKS.get(cell.attack).title, href=attack_paths[cell.attack]),
        Place("yes" if "defense" in row.record.knowledge else "no"),
        Place(row.name + ("†" if is_implied(m, row.name) else "")),
        *map(_share, (row.accuracy, row.blind, row.lead, row.undefended)),
        *map(_share, (price.utility, price.utility_lost) if price else (None, None)),
        Place(MISSING if change is None else f"{change:.3g}"),
        Place(MISSING if epsilon is None else f"{epsilon:.3g}"),
        *(Place(text_of(getattr(cell, field))) for field in fields),
        Place(m.entry.key[:SHORT], href=f"{attack_paths[cell.attack]}#{identifier}"),
        Place("#", href=f"#{identifier}"),
    )


def _share(estimate: Estimate | None) -> Place:
    return Place(MISSING) if estimate is None else place_of(percent(estimate))
