"""Attacks under a defense, beside the control, beside no defense, and with its utility cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leakbench.base.registry import ATTACKS
from leakbench.experiments.cell import Cell
from leakbench.metrics.estimates import Estimate
from leakbench.records.record import DefenseMetrics, Record
from leakbench.reports.advantage import advantage_over
from leakbench.reports.site.cell_tables import in_reading_order
from leakbench.reports.tables import RANDOM_AUXILIARY


@dataclass(frozen=True)
class Defended:
    """One attack on one property under a defense.

    Attributes:
        record: of the cell.
        name: the property.
        accuracy: balanced accuracy.
        blind: that of the random-auxiliary baseline in the same setting; None where it was not
            measured.
        advantage: of the attack over it.
        undefended: of the same attack without the defense; None where it was not measured.
        cost: distortion and utility cost of the defense.
    """

    record: Record
    name: str
    accuracy: Estimate
    blind: Estimate | None
    advantage: Estimate | None
    undefended: Estimate | None
    cost: DefenseMetrics | None


def defended(defense: str, records: Iterable[Record]) -> list[Defended]:
    """Return the attacks under a defense, each property by itself, beside the controls."""
    every = in_reading_order([r for r in records if r.metrics is not None])
    blind: dict[str, list[Record]] = {}
    without: dict[str, Record] = {}
    for record in every:
        if record.cell.attack == RANDOM_AUXILIARY:
            blind.setdefault(setting_without_attack(record.cell), []).append(record)
        elif record.cell.defense == "none":
            without[_same_attack(record.cell, record.knowledge)] = record
    found = []
    for record in every:
        if record.cell.defense != defense or ATTACKS.get(record.cell.attack).control:
            continue
        undefended = _undefended(record.cell)
        beside = without.get(_same_attack(undefended, record.knowledge))
        control = _fair(blind.get(setting_without_attack(record.cell), ()), record)
        found += [_defended(record, name, control, beside) for name in record.cell.properties]
    return found


def _defended(record: Record, name: str, control: Record | None, beside: Record | None) -> Defended:
    assert record.metrics is not None
    accuracy, blind = _accuracy(record, name), _accuracy(control, name)
    assert accuracy is not None
    comparable = blind is not None and blind.value is not None and accuracy.value is not None
    return Defended(
        record=record,
        name=name,
        accuracy=accuracy,
        blind=blind,
        advantage=advantage_over(accuracy, blind) if blind is not None and comparable else None,
        undefended=_accuracy(beside, name),
        cost=record.metrics.defense,
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


def _fair(controls: Sequence[Record], record: Record) -> Record | None:
    """Return the control to compare an attack with: one that knows the labels if the attack does.

    Of several, one that knows no more than the attack: a control that knows more would
    underestimate the attack's advantage, one that knows less would overestimate it.
    """
    knows = "labels" in record.knowledge
    fair = [each for each in controls if "labels" in each.knowledge or not knows]
    fair.sort(key=lambda each: ("labels" in each.knowledge) != knows)
    return fair[0] if fair else None
