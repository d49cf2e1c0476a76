"""The baseline that an attack is compared with: the best control that knows no more than it."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Literal

from leakbench.base.registry import ATTACKS
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.records.record import Record


@dataclass(frozen=True)
class Baseline:
    """The result of a control that is a baseline.

    Attributes:
        title: its column.
        knowledge: the names of the kinds of knowledge that it had.
        estimate: its number; None where it failed or was not measured.
    """

    title: str
    knowledge: frozenset[str]
    estimate: Estimate | None


def is_baseline(attack: str) -> bool:
    """Whether a plugin declares that it is a baseline, as `prior`, `blind` and `labels` do."""
    return bool(ATTACKS.get(attack).control == "baseline")


def knowledge_of(measured: Measured) -> frozenset[str]:
    """Return what a cell's attack knew: as recorded, or as its cell grants it."""
    record = measured.record
    if record is not None and record.status != "failed":
        return frozenset(record.knowledge)
    return frozenset(measured.entry.resolved.knowledge.names())


def recorded_knowledge(record: Record) -> frozenset[str]:
    """Return what a record's attack knew; of one that failed, what its cell grants it."""
    if record.status != "failed":
        return frozenset(record.knowledge)
    return frozenset(ResolvedCell.of(record.cell).knowledge.names())


def best_baseline(baselines: Iterable[Baseline], knowledge: Collection[str]) -> Baseline | None:
    """Return the baseline with the highest value among those that know no more than an attack.

    None where there is nothing to be above: where one of these has no value, or where none of them
    knows the main-task labels as the attack does.

    Args:
        knowledge: the attack's.

    >>> def of(title, value, *knows):
    ...     return Baseline(title, frozenset(knows), Estimate(value=value, low=value, high=value))
    >>> prior, labels = of("Prior", 0.5, "auxiliary"), of("Labels", 0.7, "auxiliary", "labels")
    >>> best_baseline([prior, labels], {"auxiliary", "update", "labels"}).title
    'Labels'
    >>> best_baseline([prior, labels], {"auxiliary"}).title
    'Prior'
    >>> best_baseline([prior], {"auxiliary", "update", "labels"}) is None
    True
    """
    fair = [each for each in baselines if each.knowledge <= frozenset(knowledge)]
    kinds = {label_knowledge(each.knowledge) for each in fair}
    if label_knowledge(knowledge) not in kinds:
        return None
    valued = [
        (each.estimate.value, each)
        for each in fair
        if each.estimate is not None and each.estimate.value is not None
    ]
    if len(valued) < len(fair):
        return None
    return max(valued, key=lambda pair: pair[0])[1]


def label_knowledge(knowledge: Collection[str]) -> Literal["known", "recovered", "none"]:
    """Return how main-task labels are known: granted, from the update, or not at all."""
    if "labels" in knowledge:
        return "known"
    return "recovered" if "update" in knowledge else "none"


def is_above(higher: Estimate, lower: Estimate) -> bool:
    """Whether an interval lies wholly above another; not where one is missing."""
    return higher.low is not None and lower.high is not None and higher.low > lower.high
