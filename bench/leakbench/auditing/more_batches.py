"""How many more batches would decide what is undecided."""

from __future__ import annotations

import math
from collections.abc import Sequence

from leakbench.auditing.report_parts import (
    AttackReport,
    AuditedUpdate,
    ReportPart,
    attacks_run,
    baseline_of,
)
from leakbench.auditing.sentences import percent
from leakbench.auditing.verdicts import RELEVANT_ADVANTAGE
from leakbench.metrics.estimates import MIN_GROUPS, Estimate
from leakbench.metrics.formatting import counted


class UndecidedProperty(ReportPart):
    """A property in which an advantage is neither shown nor excluded.

    Attributes:
        subject: the property.
        batches: whose truth is known.
        more: about so many further batches would decide it; where there are no intervals, so many
            are missing for them. None where no number would, or people are too few for intervals.
        advantage: the largest of any attack.
        interval: whether all advantages have intervals.
    """

    subject: str
    batches: int
    more: int | None
    advantage: Estimate
    interval: bool


def undecided_properties(
    updates: Sequence[AuditedUpdate], attacks: Sequence[AttackReport]
) -> list[UndecidedProperty]:
    """Return the properties that more batches could decide, among attacks that were run.

    Args:
        attacks: with the controls.
    """
    batches = sum(update.truth_known for update in updates)
    ran = attacks_run(attacks)
    subjects = list(dict.fromkeys(name for a in ran for name in a.advantage))
    found = (_undecided(name, batches, ran, attacks) for name in subjects)
    return [each for each in found if each is not None]


def _undecided(
    name: str, batches: int, ran: Sequence[AttackReport], attacks: Sequence[AttackReport]
) -> UndecidedProperty | None:
    pairs = [(a, a.advantage[name]) for a in ran if name in a.advantage]
    defined = [(a, each) for a, each in pairs if each.value is not None]
    if not defined or len(defined) < len(pairs):
        return None  # A property that is constant, or has no baseline: batches do not help.
    advantages = [each for _, each in defined]
    largest = max(advantages, key=lambda each: each.value or 0.0)
    if any(each.low is None or each.high is None for each in advantages):
        more: int | None = MIN_GROUPS - batches if batches < MIN_GROUPS else None
    elif _is_decided(advantages):
        return None
    else:
        excludable = all(_leaves_room(a, name, attacks) for a, _ in defined)
        more = more_batches(advantages, batches, excludable)
    return UndecidedProperty(
        subject=name,
        batches=batches,
        more=more,
        advantage=largest,
        interval=all(each.low is not None for each in advantages),
    )


def _is_decided(advantages: Sequence[Estimate]) -> bool:
    shown = any((each.low or 0.0) > 0 for each in advantages)
    return shown or all((each.high or 0.0) <= RELEVANT_ADVANTAGE for each in advantages)


def _leaves_room(attack: AttackReport, name: str, attacks: Sequence[AttackReport]) -> bool:
    """Whether a relevant advantage over the baseline is possible, so that it can be excluded."""
    baseline = baseline_of(attack, name, attacks)
    if baseline is None or baseline.metrics is None:
        return False
    accuracy = baseline.metrics.properties[name].balanced_accuracy.value
    return accuracy is not None and 1 - accuracy > RELEVANT_ADVANTAGE


def more_batches(advantages: Sequence[Estimate], batches: int, excludable: bool) -> int | None:
    """Return about how many more batches decide whether there is an advantage.

    A normal approximation: estimates stay where they are, and the interval's reach on either side
    shrinks with 1/√batches. It is decided once one attack's interval is above 0, or all intervals
    are below the relevant advantage.

    Args:
        advantages: with intervals, one for each attack.
        batches: that they are measured on.
        excludable: whether a relevant advantage can be excluded at all.

    Returns:
        At least 1; None where no number decides it.

    >>> more_batches([Estimate(value=0.1, low=-0.1, high=0.3)], 10, excludable=True)
    31
    """
    shown, excluded = [], []
    for each in advantages:
        assert each.value is not None and each.low is not None and each.high is not None
        shown.append(_needed(each.value, each.value - each.low, batches))
        excluded.append(_needed(RELEVANT_ADVANTAGE - each.value, each.high - each.value, batches))
    needed = min([*shown, max(excluded) if excludable else math.inf])
    return None if math.isinf(needed) else max(1, math.floor(needed) + 1 - batches)


def batches_to_verdict(
    updates: Sequence[AuditedUpdate], attacks: Sequence[AttackReport]
) -> int | None:
    """Return about how many more batches decide a verdict that wide intervals leave open."""
    ran = attacks_run(attacks)
    advantages = [each for a in ran for each in a.advantage.values()]
    return more_batches(advantages, sum(u.truth_known for u in updates), excludable=True)


def _needed(distance: float, reach: float, batches: int) -> float:
    """Return the batches from which on an interval's reach is below a distance."""
    return batches * (reach / distance) ** 2 if distance > 0 else math.inf


def undecided_text(undecided: UndecidedProperty) -> str:
    """Return what would decide a property as a sentence."""
    if not undecided.interval:
        return (
            f"{undecided.subject} is undecided: without at least {MIN_GROUPS} batches, and people, "
            f"whose truth is known, there is no interval."
        )
    now = f"after {undecided.batches} batches the advantage is "
    now += f"{percent(undecided.advantage, sign=True)} points"
    if undecided.more is None:
        return (
            f"{undecided.subject} is undecided ({now}), and no number of batches would decide it: "
            f"the best baseline is so accurate that no relevant advantage is possible."
        )
    return (
        f"{undecided.subject} is undecided ({now}): about "
        f"{counted(undecided.more, 'more batch', 'more batches')} of the same kind would decide "
        f"it, if the estimates stay where they are."
    )
