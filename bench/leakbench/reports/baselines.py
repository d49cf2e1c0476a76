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
        tells_labels: whether it is a label baseline, see `tells_labels`.
    """

    title: str
    knowledge: frozenset[str]
    estimate: Estimate | None
    tells_labels: bool


def is_baseline(attack: str) -> bool:
    """Whether a plugin declares that it is a baseline, as `prior`, `blind` and `labels` do."""
    return bool(ATTACKS.get(attack).control == "baseline")


def tells_labels(attack: str) -> bool:
    """Whether a plugin declares that it is a label baseline, as `labels` does."""
    return is_baseline(attack) and ATTACKS.get(attack).is_label_baseline


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

    None where there is nothing to be above: where one of these has no value, where there is none,
    or where the attack knows labels and none of them is a label baseline that knows these as it
    does.

    Args:
        knowledge: the attack's.

    >>> def of(title, value, *knows):
    ...     estimate = Estimate(value=value, low=value, high=value)
    ...     return Baseline(title, frozenset(knows), estimate, tells_labels=title == "Labels")
    >>> prior, labels = of("Prior", 0.5, "auxiliary"), of("Labels", 0.7, "auxiliary", "labels")
    >>> best_baseline([prior, labels], {"auxiliary", "update", "labels"}).title
    'Labels'
    >>> best_baseline([prior, labels], {"auxiliary"}).title
    'Prior'
    >>> best_baseline([prior], {"auxiliary", "update", "labels"}) is None
    True
    """
    fair = [each for each in baselines if each.knowledge <= frozenset(knowledge)]
    if not fair or lacks_label_baseline(fair, knowledge):
        return None
    valued = [
        (each.estimate.value, each)
        for each in fair
        if each.estimate is not None and each.estimate.value is not None
    ]
    if len(valued) < len(fair):
        return None
    return max(valued, key=lambda pair: pair[0])[1]


def lacks_label_baseline(baselines: Iterable[Baseline], knowledge: Collection[str]) -> bool:
    """Whether an attack knows labels, and no label baseline knows these as it does and no more."""
    kind = label_knowledge(knowledge)
    return kind != "none" and not any(
        each.tells_labels
        and each.knowledge <= frozenset(knowledge)
        and label_knowledge(each.knowledge) == kind
        for each in baselines
    )


def label_knowledge(knowledge: Collection[str]) -> Literal["known", "recovered", "none"]:
    """Return how main-task labels are known: granted, from the update, or not at all."""
    if "labels" in knowledge:
        return "known"
    return "recovered" if "update" in knowledge else "none"


def is_above(higher: Estimate, lower: Estimate) -> bool:
    """Whether an interval lies wholly above another; not where one is missing."""
    return higher.low is not None and lower.high is not None and higher.low > lower.high
