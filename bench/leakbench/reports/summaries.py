"""What a leaderboard says beside its tables: who knew what, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from leakbench.base.registry import ATTACKS
from leakbench.experiments.cell import Cell
from leakbench.experiments.descriptions import text_of
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.records.measured import Measured
from leakbench.records.record import Record
from leakbench.reports.details import varying_parameters
from leakbench.reports.rows import MISSING, leading_values, varying_settings


class Summary(NamedTuple):
    """A table of texts.

    Attributes:
        headings: of its columns.
        rows: as long as the headings.
    """

    headings: list[str]
    rows: list[list[str]]


def threat_models(suites: Mapping[str, Sequence[Measured]]) -> Summary:
    """Return who knew what: a row for each column, for each of the sets of what it was told.

    Args:
        suites: name → cells.
    """
    places: dict[tuple[str, str], dict[tuple[str, ...], dict[str, None]]] = {}
    for suite, cells in suites.items():
        for m in cells:
            if m.record is not None and m.record.status != "failed":
                forms = places.setdefault((m.entry.column, m.entry.cell.attack), {})
                forms.setdefault(m.record.knowledge, {})[f"{suite}: {m.entry.group}"] = None
    rows: list[list[str]] = []
    for (column, name), by_knowledge in places.items():
        kind = "control" if ATTACKS.get(name).control else "attack"
        for knowledge, groups in by_knowledge.items():
            where = "wherever it stands" if len(by_knowledge) == 1 else "; ".join(groups)
            rows.append([column, name, kind, ", ".join(knowledge) or "nothing", where])
    return Summary(["column", "plugin", "kind", "knows", "where"], rows)


def references(suites: Mapping[str, Sequence[Measured]]) -> list[tuple[str, str]]:
    """Return title and publication of each attack, in order of appearance."""
    names = dict.fromkeys(m.entry.cell.attack for cells in suites.values() for m in cells)
    plugins = [ATTACKS.get(name) for name in names]
    return [(plugin.title, plugin.reference) for plugin in plugins if not plugin.control]


def costs(cells: Sequence[Measured]) -> Summary:
    """Return what each cell took: gradient evaluations, seconds and memory."""
    unique = {m.entry.key: m for m in cells if m.record is not None and m.record.cost}
    leading = ("data set", "main task", "B")
    varying = varying_settings([m.entry for m in cells], leading)
    fields = [*leading, *(name for name in varying if name in Cell.model_fields)]
    parameters = varying_parameters(cells)
    rows: dict[tuple[str, ...], None] = {}
    for m in unique.values():
        assert m.record is not None
        of_attack = m.entry.cell.attack_parameters
        place = [m.entry.column, *leading_values(m, "", fields)]
        place += [text_of(of_attack.get(name, MISSING)) for name in parameters]
        rows[(*place, *cost(m.record), m.record.device)] = None
    headings = ["attack", *fields, *parameters, *COST, "device"]
    return Summary(headings, [list(row) for row in rows])


COST = ("steps", "s/batch", "MiB")
"""Headings of `cost`: gradient evaluations a batch, seconds a batch, and peak memory."""


def cost(record: Record) -> tuple[str, str, str]:
    """Return what a cell took, as texts under `COST`."""
    took = record.cost
    if took is None:
        return MISSING, MISSING, MISSING
    seconds = took.seconds / ResolvedCell.of(record.cell).updates
    return f"{took.steps:.0f}", f"{seconds:.3g}", f"{took.peak_memory_mib:.0f}"
