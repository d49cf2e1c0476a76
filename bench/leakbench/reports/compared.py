"""Attacks beside the best control with their knowledge in the same setting, from records alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from leakbench.base.registry import ATTACKS
from leakbench.metrics.estimates import Estimate
from leakbench.records.record import Record
from leakbench.reports.advantage import advantage_over
from leakbench.reports.baselines import (
    Baseline,
    best_baseline,
    is_baseline,
    recorded_knowledge,
    tells_labels,
)


@dataclass(frozen=True)
class Compared:
    """An attack's answer for a property beside its baseline.

    Attributes:
        accuracy: balanced accuracy of the attack.
        baseline: the best one with the attack's knowledge in the same setting; None where there is
            none, see `best_baseline`.
        advantage: of the attack over it.
    """

    accuracy: Estimate
    baseline: Baseline | None
    advantage: Estimate | None


class Controls:
    """The baselines among some records, by their setting."""

    def __init__(self, records: Iterable[Record]) -> None:
        self._by_setting: dict[str, list[Record]] = {}
        for record in records:
            if is_baseline(record.cell.attack):
                of_setting = self._by_setting.setdefault(setting_of_record(record), [])
                of_setting.append(record)

    def compare(self, record: Record) -> dict[str, Compared]:
        """Return property → an attack's answer beside its baseline; the record has metrics."""
        controls = self._by_setting.get(setting_of_record(record), ())

        def compared(name: str) -> Compared:
            accuracy = accuracy_of(record, name)
            assert accuracy is not None
            baselines = [_baseline(each, name) for each in controls]
            baseline = best_baseline(baselines, record.knowledge)
            floor = baseline.estimate if baseline else None
            if floor is None or accuracy.value is None:
                return Compared(accuracy, baseline, None)
            return Compared(accuracy, baseline, advantage_over(accuracy, floor))

        return {name: compared(name) for name in record.cell.properties}


def accuracy_of(record: Record | None, name: str) -> Estimate | None:
    """Return a record's balanced accuracy for a property; None where it has none."""
    found = record.metrics.properties.get(name) if record and record.metrics else None
    return found.balanced_accuracy if found else None


def setting_of_record(record: Record) -> str:
    """Return the setting of a record's cell, equal for all attacks on it under the same defense.

    Records of another schema have another one: their victims and scores are of another version.
    """
    cell = record.cell.model_dump_json(exclude={"attack", "attack_parameters", "grant"})
    return f"{record.schema_version} {cell}"


def _baseline(control: Record, name: str) -> Baseline:
    return Baseline(
        title=ATTACKS.get(control.cell.attack).title,
        knowledge=recorded_knowledge(control),
        estimate=accuracy_of(control, name),
        tells_labels=tells_labels(control.cell.attack),
    )
