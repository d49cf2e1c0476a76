"""A page for each attack and control: its paper, parameters, knowledge, and all its cells."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from leakbench.base.registry import ATTACKS
from leakbench.experiments.plugin_catalogue import PARAMETER_HEADINGS, parameters, shared_parameters
from leakbench.records.folder import RecordFolder
from leakbench.records.record import Record
from leakbench.reports.settings import setting_lines
from leakbench.reports.site.cell_tables import cells_of, measured
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
    kind: str
    about: Markup
    shared: Sequence[Markup]
    parameters: TableView | None
    presets: TableView | None
    knowledge: Sequence[str]
    glossary: Mapping[str, str]
    optional_knowledge: str
    settings: Sequence[Markup]
    cells: TableView


def attack_paths(folder: RecordFolder) -> dict[str, str]:
    """Return attack → path of its page, for all that have a record; controls come last."""
    names = sorted({record.cell.attack for record in folder.records.values()})
    names.sort(key=lambda name: ATTACKS.get(name).control is not None)
    slugs = made_unique([slug(name) for name in names])
    return {name: f"attack-{each}.html" for name, each in zip(names, slugs, strict=True)}


def attack_pages(folder: RecordFolder) -> list[Page]:
    """Return the list of attacks and the page of each."""
    records = list(folder.records.values())
    paths = attack_paths(folder)
    views = {name: _view(name, records) for name in paths}
    pages = [
        Page(
            path,
            "attack.html",
            f"{views[name].title} ({views[name].kind})",
            {"attack": views[name]},
        )
        for name, path in paths.items()
    ]
    table = _list(views, paths)
    return [Page("attacks.html", "list.html", "Attacks", {"listed": table}), *pages]


def _list(views: Mapping[str, AttackView], paths: Mapping[str, str]) -> TableView:
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
            ValueView(view.title, href=paths[name]),
            ValueView(name),
            ValueView(view.kind),
            ValueView("; or ".join(view.knowledge)),
            ValueView(str(len(view.cells.rows))),
            ValueView(view.reference),
        )
        rows.append(RowView(f"attack-{slug(name)}", values))
    return TableView("attacks", "Attacks and controls", columns, tuple(rows))


def _view(name: str, records: Sequence[Record]) -> AttackView:
    attack: type[Attack] = ATTACKS.get(name)
    own = [record for record in records if record.cell.attack == name]
    known = dict.fromkeys(record.knowledge for record in own if record.status != "failed")
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
        settings=[marked_up(line) for line in setting_lines(list(map(measured, own)))],
        cells=cells_of(name, own),
    )
