"""Attacks under a defense, beside their baseline, beside no defense, and with its utility cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leakbench.base.registry import ATTACKS
from leakbench.experiments.cell import Cell
from leakbench.metrics.estimates import Estimate
from leakbench.records.record import DefenseMetrics, Record
from leakbench.reports.advantage import advantage_over
from leakbench.reports.baselines import (
    Baseline,
    best_baseline,
    is_baseline,
    recorded_knowledge,
    tells_labels,
)
from leakbench.reports.site.cell_tables import in_reading_order

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
    baselines: dict[str, list[Record]] = {}
    without: dict[str, Record] = {}
    for record in every:
        if is_baseline(record.cell.attack):
            baselines.setdefault(setting_without_attack(record.cell), []).append(record)
        elif record.cell.defense == UNDEFENDED and record.metrics is not None:
            without[_same_attack(record.cell, record.knowledge)] = record
    found: dict[str, list[Defended]] = {}
    for record in every:
        is_attack = record.metrics is not None and not ATTACKS.get(record.cell.attack).control
        if record.cell.defense == UNDEFENDED or not is_attack:
            continue
        undefended = _undefended(record.cell)
        beside = without.get(_same_attack(undefended, record.knowledge))
        controls = baselines.get(setting_without_attack(record.cell), ())
        rows = found.setdefault(record.cell.defense, [])
        rows += [_defended(record, name, controls, beside) for name in record.cell.properties]
    return found


def _defended(
    record: Record, name: str, controls: Sequence[Record], beside: Record | None
) -> Defended:
    assert record.metrics is not None
    accuracy = _accuracy(record, name)
    assert accuracy is not None
    baseline = best_baseline([_baseline(each, name) for each in controls], record.knowledge)
    floor = baseline.estimate if baseline else None
    is_defined = floor is not None and accuracy.value is not None
    return Defended(
        record=record,
        name=name,
        accuracy=accuracy,
        baseline=baseline,
        advantage=advantage_over(accuracy, floor) if floor is not None and is_defined else None,
        undefended=_accuracy(beside, name),
        cost=record.metrics.defense,
    )


def _baseline(control: Record, name: str) -> Baseline:
    return Baseline(
        title=ATTACKS.get(control.cell.attack).title,
        knowledge=recorded_knowledge(control),
        estimate=_accuracy(control, name),
        tells_labels=tells_labels(control.cell.attack),
    )


def _accuracy(record: Record | None, name: str) -> Estimate | None:
    found = record.metrics.properties.get(name) if record and record.metrics else None
    return found.balanced_accuracy if found else None


def setting_without_attack(cell: Cell) -> str:
    """Return the setting of a cell, equal for all attacks on it under the same defense."""
    return cell.model_dump_json(exclude={"attack", "attack_parameters", "grant"})


def _same_attack(cell: Cell, knowledge: Sequence[str]) -> str:
    """Return the setting and knowledge of an attack, the knowledge of the defense excepted."""
    knows = sorted(kind for kind in knowledge if kind != "defense")
    return f"{cell.model_dump_json(exclude={'grant'})} {knows}"


def _undefended(cell: Cell) -> Cell:
    return cell.model_copy(update={"defense": "none", "defense_parameters": {}})
