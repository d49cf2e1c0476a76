"""A page for each attack and control: its paper, parameters, knowledge, and all its cells."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from leakbench.base.markdown import one_line
from leakbench.base.registry import ATTACKS
from leakbench.experiments.plugin_catalogue import (
    PARAMETER_HEADINGS,
    SECTION,
    parameters,
    shared_parameters,
)
from leakbench.records.measured import Measured
from leakbench.reports.papers import PaperLink, paper_link
from leakbench.reports.ranking import Ranking
from leakbench.reports.settings import setting_lines
from leakbench.reports.site.attack_curves import Curves, curves_of
from leakbench.reports.site.cell_tables import CellTable, cells_of
from leakbench.reports.site.chart import MARGINS, Chart, by_batch_size
from leakbench.reports.site.view import (
    Column,
    Page,
    RowView,
    TableView,
    ValueView,
    made_unique,
    marked_up,
    plain_table,
    slug,
    with_code,
)
from leakbench.reports.summaries import Summary
from leakbench.threat.attack import Attack
from leakbench.threat.glossary import SHORT_NAMES, glossary


@dataclass(frozen=True)
class AttackView:
    """The content of an attack's page.

    Attributes:
        name, title, reference, note: the attack's.
        summary: what it does, knows and reaches, a sentence each.
        paper: the link to its paper.
        chart: what it reaches by batch size; None where nothing was measured.
        curves: what the chart draws.
        kind: `attack` or `control`.
        explained: its documentation, without its first paragraph and its parameters.
        documented: documentation of its own parameters, and of those that it shares with others.
        parameters, presets: tables; None where it has none.
        knowledge: each set of knowledge that its cells had, as text.
        glossary: kind of knowledge → what it is.
        optional_knowledge: what else it uses where its cell grants it.
        settings: of its cells, one per line.
        cells: the table of all its cells.
    """

    name: str
    title: str
    reference: str
    note: str
    summary: Sequence[Markup]
    paper: PaperLink | None
    chart: Chart | None
    curves: Curves
    kind: str
    explained: Markup
    documented: Sequence[Markup]
    parameters: TableView | None
    presets: TableView | None
    knowledge: Sequence[str]
    glossary: Mapping[str, str]
    optional_knowledge: str
    settings: Sequence[Markup]
    cells: CellTable


def attack_tables(cells: Sequence[Measured]) -> dict[str, CellTable]:
    """Return attack → the table of its cells, which begins on its page; controls come last.

    Args:
        cells: in reading order.
    """
    own: dict[str, list[Measured]] = {}
    for m in cells:
        own.setdefault(m.entry.cell.attack, []).append(m)
    names = sorted(own)
    names.sort(key=lambda name: ATTACKS.get(name).control is not None)
    slugs = made_unique([slug(name) for name in names])
    return {
        name: cells_of(f"attack-{each}.html", own[name])
        for name, each in zip(names, slugs, strict=True)
    }


def attack_pages(tables: Mapping[str, CellTable], ranked: Sequence[Ranking] = ()) -> list[Page]:
    """Return the list of attacks, the page of each, and the further pages of its table.

    Args:
        ranked: the rankings of the first page.
    """
    views = {name: _view(name, table, ranked) for name, table in tables.items()}
    listed = Page("attacks.html", "list.html", "Attacks", {"listed": _list(views)})
    pages = [listed]
    for view in views.values():
        title = f"{view.title} ({view.kind})"
        pages.append(Page(view.cells.path, "attack.html", title, {"attack": view, "size": MARGINS}))
        pages += view.cells.pages(title, since=2)
    return pages


def _list(views: Mapping[str, AttackView]) -> TableView:
    columns = (
        Column("title"),
        Column("plugin"),
        Column("kind", filtered=True),
        Column("knows", filtered=True),
        Column("rows", "number"),
        Column("paper"),
    )
    rows = []
    for name, view in views.items():
        values = (
            ValueView(view.title, href=view.cells.path),
            ValueView(name),
            ValueView(view.kind),
            ValueView("; or ".join(view.knowledge)),
            ValueView(str(len(view.cells.items))),
            ValueView(view.reference),
        )
        rows.append(RowView(f"attack-{slug(name)}", values))
    return TableView("attacks", "Attacks and controls", columns, tuple(rows))


def _knows(known: Sequence[Sequence[str]]) -> str:
    """Return in a sentence what an attack knows in all of its cells, and in some.

    Args:
        known: each set of knowledge that its cells had.
    """
    always = [kind for kind in SHORT_NAMES if known and all(kind in of for of in known)]
    at_times = [kind for kind in SHORT_NAMES if any(kind in of for of in known)]
    more = [SHORT_NAMES[kind] for kind in at_times if kind not in always]
    text = f"It knows {_and([SHORT_NAMES[kind] for kind in always]) or 'nothing'}"
    return f"{text}; in some cells also {_and(more)}." if more else f"{text}."


def _and(texts: Sequence[str]) -> str:
    *first, last = texts or [""]
    return f"{', '.join(first)} and {last}" if first else last


def _parts(attack: type[Attack]) -> tuple[str, str, str]:
    """Return the first paragraph of an attack's documentation, what explains it, its parameters."""
    text, _, own = (inspect.getdoc(attack) or "").partition(SECTION)
    first, _, rest = text.partition("\n\n")
    return first.strip(), rest.strip(), inspect.cleandoc(own)


def _view(name: str, table: CellTable, ranked: Sequence[Ranking]) -> AttackView:
    attack: type[Attack] = ATTACKS.get(name)
    # By key, in which order settings have always been listed.
    cells = {m.entry.key: m for m, _ in table.items}
    own = [cells[key] for key in sorted(cells)]
    records = [m.record for m in own if m.record is not None]
    known = list(dict.fromkeys(record.knowledge for record in records if record.status != "failed"))
    curves = curves_of(name, own, ranked)
    first, explained, documented = _parts(attack)
    rows = parameters(attack)
    presets = [
        [preset, ", ".join(f"{key} = {value!r}" for key, value in of.items())]
        for preset, of in attack.presets.items()
    ]
    return AttackView(
        name=name,
        title=attack.title,
        reference=attack.reference,
        note=attack.note,
        summary=[with_code(text) for text in (one_line(first), _knows(known), curves.result)],
        paper=paper_link(attack.reference),
        chart=by_batch_size(curves.title, curves.by_setting),
        curves=curves,
        kind="control" if attack.control else "attack",
        explained=with_code(explained),
        documented=[
            with_code(text)
            for text in (documented, *map(inspect.cleandoc, shared_parameters(attack)))
            if text
        ],
        parameters=plain_table("parameters", "Parameters", Summary(PARAMETER_HEADINGS, rows))
        if rows
        else None,
        presets=plain_table("presets", "Presets", Summary(["preset", "parameters"], presets))
        if presets
        else None,
        knowledge=[", ".join(kinds) or "nothing" for kinds in known],
        glossary=glossary(kind for kinds in known for kind in kinds),
        optional_knowledge=", ".join(attack.optional_knowledge.names()),
        settings=[marked_up(line) for line in setting_lines(own, brief=True)],
        cells=table,
    )
