"""Comparing a record with a new measurement of its cell."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from leakbench.metrics.catalogue import spec_of
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.spec import Leaf, leaves
from leakbench.records.possible_values import ROUNDING
from leakbench.records.record import Record
from leakbench.records.verified import Rule

RuleChoice = Literal["auto", "equal", "interval"]
"""`auto` is `equal` where device and versions are the record's, else `interval`."""


def chosen(choice: RuleChoice, record: Record, anew: Record) -> Rule:
    """Return the rule by which two measurements of a cell are compared."""
    if choice != "auto":
        return choice
    alike = (record.device, record.versions) == (anew.device, anew.versions)
    return "equal" if alike else "interval"


def differences(record: Record, anew: Record, rule: Rule) -> Iterator[str]:
    """Yield in which values a new measurement breaks the rule, a phrase each.

    By `interval`, metrics that have none are compared only where the data alone decide them. An
    optional metric is compared only where both have it.
    """
    if record.knowledge != anew.knowledge:
        yield f"knowledge {', '.join(record.knowledge)}, again {', '.join(anew.knowledge)}"
    if rule == "equal" and record.status != anew.status:
        yield f"status {record.status}, again {anew.status}"
    theirs = {leaf.path: leaf for leaf in leaves(record.metrics)}
    ours = {leaf.path: leaf for leaf in leaves(anew.metrics)}
    for path, leaf in {**theirs, **ours}.items():
        if path not in theirs or path not in ours:
            spec = spec_of(path)
            if spec is None or spec.optional is None:
                yield f"{leaf.name} is in one of the two only"
        elif not _agree(theirs[path], ours[path], rule):
            yield f"{leaf.name} {_text(theirs[path].value)}, again {_text(ours[path].value)}"


def _agree(record: Leaf, anew: Leaf, rule: Rule) -> bool:
    theirs, ours = record.value, anew.value
    if not isinstance(theirs, Estimate) or not isinstance(ours, Estimate):
        spec = spec_of(record.path)
        compared = rule == "equal" or (spec is not None and spec.certain)
        return not compared or (
            not isinstance(theirs, Estimate)
            and not isinstance(ours, Estimate)
            and _equal(theirs, ours)
        )
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


def _text(value: Estimate | float) -> str:
    if not isinstance(value, Estimate):
        return f"{value:g}"
    if value.value is None or value.low is None or value.high is None:
        return "undefined"
    return f"{value.value:g} ({value.low:g} to {value.high:g})"
