"""Tables beside those of the results: what each attack knew, and what each cell cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from leakbench.base.registry import ATTACKS
from leakbench.records.measured import Measured
from leakbench.reports.columns import COST
from leakbench.reports.details import Settings


@dataclass(frozen=True)
class Summary:
    """A table of texts.

    Attributes:
        headings: of its columns.
        rows: as long as the headings.
    """

    headings: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class ThreatModel:
    """What an attack knew in some groups of suites.

    Attributes:
        column: of the attack in tables.
        attack: its plugin.
        control: whether it is a control.
        knowledge: the names of the kinds of knowledge that it had.
        groups: where it had these, as `suite: group`; empty for everywhere.
    """

    column: str
    attack: str
    control: bool
    knowledge: tuple[str, ...]
    groups: tuple[str, ...]


def threat_models(suites: Mapping[str, Sequence[Measured]]) -> list[ThreatModel]:
    """Return what each column knew, once for each set of knowledge that it had.

    Args:
        suites: name → cells.
    """
    found: dict[tuple[str, str], dict[tuple[str, ...], dict[str, None]]] = {}
    for suite, cells in suites.items():
        for m in cells:
            if m.record is not None and m.record.status != "failed":
                by_knowledge = found.setdefault((m.entry.column, m.entry.cell.attack), {})
                groups = by_knowledge.setdefault(m.record.knowledge, {})
                groups[f"{suite}: {m.entry.group}"] = None
    return [
        ThreatModel(
            column=column,
            attack=attack,
            control=ATTACKS.get(attack).control is not None,
            knowledge=knowledge,
            groups=() if len(by_knowledge) == 1 else tuple(groups),
        )
        for (column, attack), by_knowledge in found.items()
        for knowledge, groups in by_knowledge.items()
    ]


def threat_table(models: Sequence[ThreatModel]) -> Summary:
    """Return threat models as a table."""
    rows = [
        [
            model.column,
            model.attack,
            "control" if model.control else "attack",
            ", ".join(model.knowledge) or "nothing",
            "; ".join(model.groups) or "everywhere",
        ]
        for model in models
    ]
    return Summary(["column", "plugin", "kind", "knows", "where"], rows)


def references(suites: Mapping[str, Sequence[Measured]]) -> list[tuple[str, str]]:
    """Return title and publication of each attack, in order of appearance."""
    names = dict.fromkeys(m.entry.cell.attack for cells in suites.values() for m in cells)
    plugins = [ATTACKS.get(name) for name in names]
    return [(plugin.title, plugin.reference) for plugin in plugins if not plugin.control]


def costs(cells: Sequence[Measured]) -> Summary:
    """Return the cost of each cell: gradient evaluations, seconds and memory."""
    unique = {m.entry.key: m for m in cells if m.record is not None and m.record.cost}
    settings = Settings.of(cells)
    rows: dict[tuple[str, ...], None] = {}
    for m in unique.values():
        record = m.record
        assert record is not None
        cost = (column.text(m) for column in COST)
        rows[(*settings.values(m), *cost, record.device)] = None
    headings = [*settings.headings, *(column.heading for column in COST), "device"]
    return Summary(headings, list(rows))
