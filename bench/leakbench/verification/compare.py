"""Comparing a record with a new measurement of its cell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics.catalogue import spec_of
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.spec import Leaf, leaves
from leakbench.records.possible_values import ROUNDING
from leakbench.records.record import Record
from leakbench.records.verified import Rule
from leakbench.verification.agreement import Sampling, contradiction, is_testable, level

RuleChoice = Literal["auto", "equal", "interval"]
"""`auto` is `equal` where device and versions are the record's, else `interval`."""


@dataclass
class Comparison:
    """What came of comparing a record with a new measurement.

    Attributes:
        differences: in which values they contradict each other, a phrase each.
        untested: names of values that the rule could not compare.
        tested: number of values that it compared, other than those that the data alone decide.
    """

    differences: list[str] = field(default_factory=list)
    untested: list[str] = field(default_factory=list)
    tested: int = 0

    @property
    def agrees(self) -> bool:
        """Whether something was compared and nothing differs."""
        return bool(self.tested) and not self.differences


def chosen(choice: RuleChoice, record: Record, anew: Record) -> Rule:
    """Return the rule by which two measurements of a cell are compared."""
    if choice != "auto":
        return choice
    alike = (record.device, record.versions) == (anew.device, anew.versions)
    return "equal" if alike else "interval"


def testable(records: Iterable[Record]) -> int:
    """Return how many estimates of records can be tested by the rule `interval`."""
    return sum(
        isinstance(leaf.value, Estimate) and is_testable(leaf.value)
        for record in records
        for leaf in leaves(record.metrics)
    )


def compare(record: Record, anew: Record, rule: Rule, estimates: int = 0) -> Comparison:
    """Return in which values a new measurement breaks the rule.

    By `interval`, numbers without an interval are compared only where the data alone decide them,
    and named otherwise. An optional metric is compared only where both have it.

    Args:
        estimates: how many are tested in the whole verification; those of this record if 0.
    """
    found = Comparison()
    if record.knowledge != anew.knowledge:
        known, again = ", ".join(record.knowledge), ", ".join(anew.knowledge)
        found.differences.append(f"knowledge {known}, again {again}")
    if rule == "equal" and record.status != anew.status:
        found.differences.append(f"status {record.status}, again {anew.status}")
    resolved = ResolvedCell.of(record.cell)
    each_test = level(estimates or testable([record]))
    theirs = {leaf.path: leaf for leaf in leaves(record.metrics)}
    ours = {leaf.path: leaf for leaf in leaves(anew.metrics)}
    for path, leaf in {**theirs, **ours}.items():
        spec = spec_of(path)
        if path not in theirs or path not in ours:
            if spec is None or spec.optional is None:
                found.differences.append(f"{leaf.name} is in one of the two only")
        elif rule == "equal":
            _compare_equal(theirs[path], ours[path], found)
        else:
            reach = spec.range if spec else (-float("inf"), float("inf"))
            sampling = Sampling(resolved.updates, record.cell.individuals, reach)
            certain = spec is not None and spec.certain
            _compare_by_interval(theirs[path], ours[path], certain, sampling, each_test, found)
    return found


def _compare_equal(theirs: Leaf, ours: Leaf, found: Comparison) -> None:
    found.tested += 1
    if not _equal(theirs.value, ours.value):
        found.differences.append(_difference(theirs, ours))


def _compare_by_interval(
    theirs: Leaf, ours: Leaf, certain: bool, sampling: Sampling, level: float, found: Comparison
) -> None:
    one, other = theirs.value, ours.value
    if not isinstance(one, Estimate) or not isinstance(other, Estimate):
        if type(one) is not type(other) or (certain and not _equal(one, other)):
            found.differences.append(_difference(theirs, ours))
        elif not certain:
            found.untested.append(theirs.name)
        return
    if one.value is None and other.value is None:
        return
    if is_testable(one) and is_testable(other):
        found.tested += 1
        if why := contradiction(one, other, sampling, level):
            found.differences.append(f"{_difference(theirs, ours)} ({why})")
    elif one.value is None or other.value is None or is_testable(other):
        # The cell decides whether an estimate has an interval: leaving it out hides something.
        found.differences.append(_difference(theirs, ours))
    else:
        found.untested.append(theirs.name)


def _equal(one: Estimate | float, other: Estimate | float) -> bool:
    return all(_close(a, b) for a, b in zip(_numbers(one), _numbers(other), strict=True))


def _numbers(value: Estimate | float) -> tuple[float | None, float | None, float | None]:
    if isinstance(value, Estimate):
        return value.value, value.low, value.high
    return value, None, None


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= ROUNDING * max(1.0, abs(one))


def _difference(theirs: Leaf, ours: Leaf) -> str:
    return f"{theirs.name} {_text(theirs.value)}, again {_text(ours.value)}"


def _text(value: Estimate | float) -> str:
    number, low, high = _numbers(value)
    if number is None:
        return "undefined"
    return f"{number:g}" if low is None or high is None else f"{number:g} ({low:g} to {high:g})"
