"""Comparing a record with a new measurement of its cell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from leakbench.metrics.estimates import Estimate
from leakbench.records.possible_values import ROUNDING, leaves
from leakbench.records.record import Record
from leakbench.records.verified import Rule

RuleChoice = Literal["auto", "equal", "interval"]
"""`auto` is `equal` where device and versions are the record's, else `interval`."""

CERTAIN = (".prevalence", ".in_main_task", "classes")
"""Ends of the names of metrics that the data decide: no rounding changes them."""

OF_EXTRAS = {"images.lpips", "defense.epsilon", "defense.delta"}
"""Metrics that need weights, or a library, which may be here and not there."""


def chosen(choice: RuleChoice, record: Record, anew: Record) -> Rule:
    """Return the rule by which two measurements of a cell are compared."""
    if choice != "auto":
        return choice
    alike = (record.device, record.versions) == (anew.device, anew.versions)
    return "equal" if alike else "interval"


def differences(record: Record, anew: Record, rule: Rule) -> Iterator[str]:
    """Yield in which numbers a new measurement breaks the rule, a few words each.

    By `interval`, metrics that have none are compared only where the data decide them.
    """
    if record.knowledge != anew.knowledge:
        yield f"knowledge {', '.join(record.knowledge)}, again {', '.join(anew.knowledge)}"
    if rule == "equal" and record.status != anew.status:
        yield f"status {record.status}, again {anew.status}"
    theirs = dict(leaves(record.metrics))
    ours = dict(leaves(anew.metrics))
    for name in {**theirs, **ours}:
        if name not in theirs or name not in ours:
            if name not in OF_EXTRAS:
                yield f"{name} is in one of the two only"
        elif not _agree(theirs[name], ours[name], rule, name):
            yield f"{name} {_number(theirs[name])}, again {_number(ours[name])}"


def _agree(theirs: Any, ours: Any, rule: Rule, name: str) -> bool:
    if not isinstance(theirs, Estimate) or not isinstance(ours, Estimate):
        certain = rule == "equal" or name.endswith(CERTAIN)
        return not certain or _equal(theirs, ours)
    if rule == "equal":
        pairs = ((getattr(theirs, f), getattr(ours, f)) for f in ("value", "low", "high"))
        return all(_equal(one, other) for one, other in pairs)
    if theirs.value is None or theirs.low is None or theirs.high is None or ours.value is None:
        return theirs.value == ours.value
    slack = ROUNDING * max(1.0, abs(theirs.value))
    return theirs.low - slack <= ours.value <= theirs.high + slack


def _equal(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= ROUNDING * max(1.0, abs(one))


def _number(value: Any) -> str:
    if not isinstance(value, Estimate):
        return f"{value:g}"
    if value.value is None or value.low is None or value.high is None:
        return "undefined"
    return f"{value.value:g} ({value.low:g} to {value.high:g})"
