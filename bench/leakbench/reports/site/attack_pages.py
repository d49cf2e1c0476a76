"""A page for each attack and control: its paper, parameters, knowledge, and all its cells."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from leakbench.base.markdown import one_line
from leakbench.base.registry import ATTACKS
from leakbench.experiments.plugin_catalogue import PARAMETER_HEADINGS, parameters, shared_parameters
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.reports.papers import PaperLink, paper_link
from leakbench.reports.ranking import Ranking
from leakbench.reports.ranking_text import result_text
from leakbench.reports.settings import setting_lines
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
from leakbench.threat.glossary import glossary


@dataclass(frozen=True)
class AttackView:
    """The content of an attack's page.

    Attributes:
        name, title, reference, note: the attack's.
        summary: what it does, knows and reaches, a sentence each.
        paper: the link to its paper.
        chart: its advantage by batch size; None where it is in no ranking.
        curves: what the chart's series are.
        kind: `attack` or `control`.
        about: its documentation.
        shared: documentation of the parameters that it shares with others.
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
    curves: Sequence[str]
    kind: str
    about: Markup
    shared: Sequence[Markup]
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


CURVES = 4
"""Rankings that an attack's chart has at most, which is how many marks differ."""


def _curves(name: str, ranked: Sequence[Ranking]) -> dict[str, dict[int, Estimate]]:
    """Return where an attack is ranked → batch size → its advantage, of the first rankings.

    Of an attack with several kinds of knowledge, that of the first group that has numbers.
    """
    found: dict[str, dict[int, Estimate]] = {}
    for ranking in ranked:
        for each in (of for of in ranking.attacks if of.attack == name and of.advantages):
            sizes = {size: each.advantage(size) for size in sorted(each.advantages)}
            curve = {size: above for size, above in sizes.items() if above is not None}
            found.setdefault(ranking.title, curve)
    return dict(list(found.items())[:CURVES])


def _summary(
    attack: type[Attack], known: Iterable[Sequence[str]], ranked: Sequence[Ranking]
) -> list[Markup]:
    """Return what an attack does, knows and reaches, a sentence each."""
    about = (inspect.getdoc(attack) or "").split("\n\n")[0]
    knows = "; or ".join(", ".join(kinds) or "nothing" for kinds in known)
    sentences = [one_line(about), f"It knows: {knows}."]
    if attack.control:
        sentences.append("It is a control, with which attacks are compared.")
    else:
        sentences.append(result_text(attack.name, ranked))
    return [with_code(text) for text in sentences]


def _view(name: str, table: CellTable, ranked: Sequence[Ranking]) -> AttackView:
    attack: type[Attack] = ATTACKS.get(name)
    # By key, in which order settings have always been listed.
    cells = {m.entry.key: m for m, _ in table.items}
    own = [cells[key] for key in sorted(cells)]
    records = [m.record for m in own if m.record is not None]
    known = dict.fromkeys(record.knowledge for record in records if record.status != "failed")
    curves = _curves(name, ranked)
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
        summary=_summary(attack, known, ranked),
        paper=paper_link(attack.reference),
        chart=by_batch_size(attack.title, curves),
        curves=list(curves),
        kind="control" if attack.control else "attack",
        about=with_code(inspect.getdoc(attack) or ""),
        shared=[with_code(inspect.cleandoc(text)) for text in shared_parameters(attack)],
        parameters=plain_table("parameters", "Parameters", Summary(PARAMETER_HEADINGS, rows))
        if rows
        else None,
        presets=plain_table("presets", "Presets", Summary(["preset", "parameters"], presets))
        if presets
        else None,
        knowledge=[", ".join(kinds) or "nothing" for kinds in known],
        glossary=glossary(kind for kinds in known for kind in kinds),
        optional_knowledge=", ".join(attack.optional_knowledge.names()),
        settings=[marked_up(line) for line in setting_lines(own)],
        cells=table,
    )
