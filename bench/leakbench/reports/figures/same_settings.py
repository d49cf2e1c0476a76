"""Attacks that other suites measured under the defenses of a suite's cells."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Iterable, Sequence

from leakbench.base.registry import ATTACKS
from leakbench.experiments.descriptions import text_of
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.records.measured import Measured
from leakbench.records.record import Record
from leakbench.reports.baselines import knowledge_of
from leakbench.reports.compared import setting_of_record


def attacks_of_others(cells: Sequence[Measured], records: Iterable[Record]) -> list[Measured]:
    """Return attacks on the settings of a suite's cells that are no cells of the suite.

    Of attacks that were measured under one of its defenses, and know no more than the suite's
    attacks on that setting do, the defense excepted: one with more knowledge has another threat
    model, and answers another question.

    Args:
        cells: of the suite; those without a record have no setting.
        records: of the folder, the suite's among them.

    Returns:
        Each once in every group that has its setting, in a column of its own.
    """
    places: dict[str, dict[str, Measured]] = {}
    known: dict[str, set[str]] = {}
    for m in cells:
        if m.record is not None:
            setting = setting_of_record(m.record)
            places.setdefault(setting, {}).setdefault(m.entry.group, m)
            if not ATTACKS.get(m.entry.cell.attack).control:
                known.setdefault(setting, {"defense"}).update(knowledge_of(m))
    own = {m.entry.key for m in cells}
    found = [
        record
        for record in records
        if record.key not in own
        and record.metrics is not None
        and not ATTACKS.get(record.cell.attack).control
        and set(record.knowledge) <= known.get(setting_of_record(record), set())
    ]
    defended = {_as_run(record) for record in found if record.cell.defense != "none"}
    found = [record for record in found if _as_run(record) in defended]
    return [
        Measured(
            dataclasses.replace(
                place.entry, resolved=ResolvedCell.of(record.cell), key=record.key, column=column
            ),
            record,
        )
        for record, column in zip(
            found, _columns(found, {m.entry.column for m in cells}), strict=True
        )
        for place in places[setting_of_record(record)].values()
    ]


def _as_run(record: Record) -> tuple[str, str]:
    """Return the attack of a record and its parameters."""
    return record.cell.attack, text_of(record.cell.attack_parameters)


def _columns(records: Sequence[Record], taken: Collection[str]) -> list[str]:
    """Return each record's column; where several have one title, parameters tell them apart."""
    titles = [
        ATTACKS.get(record.cell.attack).title + " (adaptive)" * ("defense" in record.knowledge)
        for record in records
    ]
    counts = Counter(titles)
    values = Counter(
        (title, name, text_of(value))
        for title, record in zip(titles, records, strict=True)
        for name, value in record.cell.attack_parameters.items()
    )
    columns = []
    for title, record in zip(titles, records, strict=True):
        differing = {
            name: value
            for name, value in record.cell.attack_parameters.items()
            if values[title, name, text_of(value)] < counts[title]
        }
        column = f"{title}, {text_of(differing)}" if differing else title
        columns.append(f"{column} (another suite)" if column in taken else column)
    return columns
