"""What attacks learn under a defense, beside the control, beside no defense, and at what price."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from leakbench.base.registry import ATTACKS
from leakbench.experiments.cell import Cell
from leakbench.metrics.estimates import Estimate
from leakbench.records.record import DefenseMetrics, Record
from leakbench.reports.figures.tradeoff import leakage
from leakbench.reports.site.cell_tables import in_reading_order
from leakbench.reports.tables import NOTHING_LEARNT


@dataclass(frozen=True)
class Defended:
    """One attack's answer on one property under a defense.

    Attributes:
        record: of the cell.
        name: the property.
        accuracy: balanced accuracy.
        blind: the blind control's in the same place; None where it was not measured.
        lead: of the attack above it.
        undefended: of the same attack without the defense; None where it was not measured.
        price: what the defense changes and costs.
    """

    record: Record
    name: str
    accuracy: Estimate
    blind: Estimate | None
    lead: Estimate | None
    undefended: Estimate | None
    price: DefenseMetrics | None


def defended(defense: str, records: Iterable[Record]) -> list[Defended]:
    """Return what attacks learnt under a defense; controls are what they are compared with."""
    every = in_reading_order([r for r in records if r.metrics is not None])
    blind: dict[str, list[Record]] = {}
    without: dict[str, Record] = {}
    for record in every:
        if record.cell.attack == NOTHING_LEARNT:
            blind.setdefault(_place(record.cell), []).append(record)
        elif record.cell.defense == "none":
            without[_same_attack(record.cell, record.knowledge)] = record
    found = []
    for record in every:
        if record.cell.defense != defense or ATTACKS.get(record.cell.attack).control:
            continue
        undefended = _undefended(record.cell)
        beside = without.get(_same_attack(undefended, record.knowledge))
        control = _fair(blind.get(_place(record.cell), ()), record)
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
        lead=leakage(accuracy, blind) if blind is not None and comparable else None,
        undefended=_accuracy(beside, name),
        price=record.metrics.defense,
    )


def _accuracy(record: Record | None, name: str) -> Estimate | None:
    found = record.metrics.properties.get(name) if record and record.metrics else None
    return found.balanced_accuracy if found else None


def _place(cell: Cell) -> str:
    """Return what attacks on the same victims under the same defense have in common."""
    return cell.model_dump_json(exclude={"attack", "attack_parameters", "grant"})


def _same_attack(cell: Cell, knowledge: Sequence[str]) -> str:
    """Return what an attack has in common with itself where it need not know a defense."""
    knows = sorted(kind for kind in knowledge if kind != "defense")
    return f"{cell.model_dump_json(exclude={'grant'})} {knows}"


def _undefended(cell: Cell) -> Cell:
    return cell.model_copy(update={"defense": "none", "defense_parameters": {}})


def _fair(controls: Sequence[Record], record: Record) -> Record | None:
    """Return the control to compare an attack with: one that knows the labels if the attack does.

    Of several, one that knows no more than the attack: a control that knows more would make the
    attack seem weaker, one that knows less would flatter it.
    """
    knows = "labels" in record.knowledge
    fair = [each for each in controls if "labels" in each.knowledge or not knows]
    fair.sort(key=lambda each: ("labels" in each.knowledge) != knows)
    return fair[0] if fair else None
