"""Attacks under a defense, beside their baseline, beside no defense, and with its utility cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leakbench.base.registry import ATTACKS
from leakbench.experiments.cell import Cell
from leakbench.metrics.estimates import Estimate
from leakbench.records.record import DefenseMetrics, Record
from leakbench.reports.baselines import Baseline, is_baseline
from leakbench.reports.compared import Compared, Controls, accuracy_of
from leakbench.reports.recorded_cells import in_reading_order

UNDEFENDED = "none"


@dataclass(frozen=True)
class Defended:
    """One attack on one property under a defense.

    Attributes:
        record: of the cell.
        name: the property.
        accuracy: balanced accuracy.
        baseline: the best one with the attack's knowledge in the same setting; None where there is
            none, see `best_baseline`.
        advantage: of the attack over it.
        undefended: of the same attack without the defense; None where it was not measured.
        cost: distortion and utility cost of the defense.
    """

    record: Record
    name: str
    accuracy: Estimate
    baseline: Baseline | None
    advantage: Estimate | None
    undefended: Estimate | None
    cost: DefenseMetrics | None


def defended(defense: str, records: Iterable[Record]) -> list[Defended]:
    """Return the attacks under a defense, each property by itself, beside its baseline."""
    return by_defense(in_reading_order(list(records))).get(defense, [])


def by_defense(every: Sequence[Record]) -> dict[str, list[Defended]]:
    """Return defense → the attacks under it, each property by itself, beside its baseline.

    Args:
        every: in reading order.
    """
    controls = Controls(every)
    without: dict[str, Record] = {}
    for record in every:
        is_open = record.cell.defense == UNDEFENDED and not is_baseline(record.cell.attack)
        if is_open and record.metrics is not None:
            without[_same_attack(record, record.cell)] = record
    found: dict[str, list[Defended]] = {}
    for record in every:
        is_attack = record.metrics is not None and not ATTACKS.get(record.cell.attack).control
        if record.cell.defense == UNDEFENDED or not is_attack:
            continue
        beside = without.get(_same_attack(record, _undefended(record.cell)))
        rows = found.setdefault(record.cell.defense, [])
        rows += [
            _defended(record, name, compared, beside)
            for name, compared in controls.compare(record).items()
        ]
    return found


def _defended(record: Record, name: str, compared: Compared, beside: Record | None) -> Defended:
    assert record.metrics is not None
    return Defended(
        record=record,
        name=name,
        accuracy=compared.accuracy,
        baseline=compared.baseline,
        advantage=compared.advantage,
        undefended=accuracy_of(beside, name),
        cost=record.metrics.defense,
    )


def _same_attack(record: Record, cell: Cell) -> str:
    """Return a cell, and the schema and knowledge of a record, that of the defense excepted."""
    knows = sorted(kind for kind in record.knowledge if kind != "defense")
    return f"{record.schema_version} {cell.model_dump_json(exclude={'grant'})} {knows}"


def _undefended(cell: Cell) -> Cell:
    return cell.model_copy(update={"defense": "none", "defense_parameters": {}})
