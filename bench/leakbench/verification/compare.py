"""Comparing a record with a new measurement of its cell."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from leakbench.experiments.cell import SCHEMA
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics.catalogue import PROPERTY_METRICS, spec_of
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.of_attacks import CERTIFIED_FALSELY
from leakbench.metrics.spec import Leaf, MetricSpec, leaves
from leakbench.records.possible_values import ROUNDING
from leakbench.records.record import Record
from leakbench.records.verified import Rule
from leakbench.threat.knowledge import Knowledge
from leakbench.verification.agreement import (
    COARSE,
    SHARE,
    Sampling,
    contradiction,
    is_telling,
    is_testable,
    level,
    reach_without_interval,
)
from leakbench.verification.samplings import sampling_of

RuleChoice = Literal["auto", "equal", "interval"]
"""`auto` is `equal` where device, versions and environment are the record's, else `interval`."""


@dataclass
class Comparison:
    """What came of comparing a record with a new measurement.

    Attributes:
        properties: of the cell.
        differences: in which values they contradict each other, a phrase each.
        untested: names of values that the rule could not compare.
        tested: those of the properties of which it compared accuracy or AUC by a test that finds a
            large shift.
    """

    properties: tuple[str, ...]
    differences: list[str] = field(default_factory=list)
    untested: list[str] = field(default_factory=list)
    tested: set[str] = field(default_factory=set)

    @property
    def agrees(self) -> bool:
        """Whether an attack's success was compared for each property, and nothing differs."""
        return self.tested >= set(self.properties) and not self.differences

    def note(self, leaf: Leaf, spec: MetricSpec | None) -> None:
        """Note that a value was compared; those of the setup or of controls show no success."""
        if spec in PROPERTY_METRICS and spec.better == "higher":
            self.tested.add(leaf.path[1])


def chosen(choice: RuleChoice, record: Record, anew: Record) -> Rule:
    """Return the rule by which two measurements of a cell are compared."""
    if choice != "auto":
        return choice
    one, other = ((each.device, each.versions, each.environment) for each in (record, anew))
    return "equal" if one == other and _processor(record) is not None else "interval"


def _processor(record: Record) -> str | None:
    """Return where a record was measured; None if it does not say."""
    return None if record.environment is None else record.environment.processor


def _is_retrained(record: Record, anew: Record) -> bool:
    """Whether the repeat's shared model is another one, or may be.

    On another processor sums are rounded otherwise. Over hundreds of rounds that grows until it is
    as if the training had another seed.
    """
    if not record.cell.rounds or Knowledge.MODEL not in Knowledge.parse(record.knowledge):
        return False
    theirs = _processor(record)
    return theirs is None or theirs != _processor(anew)


def testable(records: Iterable[Record]) -> int:
    """Return how many values of records may be tested by the rule `interval`."""
    return sum(
        not (spec := spec_of(leaf.path)) or not spec.certain
        for record in records
        for leaf in leaves(record.metrics)
    )


def compare(record: Record, anew: Record, rule: Rule, values: int = 0) -> Comparison:
    """Return in which values a new measurement breaks the rule.

    What needs weights or a library is compared only where both have it, and what was added to the
    catalogue later where the record is of today's schema.

    Args:
        values: how many are tested in the whole verification; those of this record if 0.
    """
    found = Comparison(record.cell.properties)
    if record.knowledge != anew.knowledge:
        known, again = ", ".join(record.knowledge), ", ".join(anew.knowledge)
        found.differences.append(f"knowledge {known}, again {again}")
    if rule == "equal" and record.status != anew.status:
        found.differences.append(f"status {record.status}, again {anew.status}")
    assert anew.metrics is not None
    resolved = ResolvedCell.of(record.cell)
    each_test = level(values or testable([record]))
    retrained = _is_retrained(record, anew)
    theirs = {leaf.path: leaf for leaf in leaves(record.metrics)}
    ours = {leaf.path: leaf for leaf in leaves(anew.metrics)}
    for path, leaf in {**theirs, **ours}.items():
        spec = spec_of(path)
        if path not in theirs or path not in ours:
            if not _may_lack(spec, record):
                found.differences.append(f"{leaf.name} is in one of the two only")
        elif rule == "equal" or (spec is not None and spec.certain):
            _compare_equal(theirs[path], ours[path], spec, found)
        else:
            sampling = sampling_of(leaf, spec, resolved, anew.metrics)
            sampling = replace(sampling, is_retrained=retrained)
            _compare_by_interval(theirs[path], ours[path], spec, sampling, each_test, found)
    return found


def _may_lack(spec: MetricSpec | None, record: Record) -> bool:
    """Whether one of two honest records of a cell may lack a metric that the other has."""
    if spec is None or spec.optional is None:
        return False
    return spec.optional == "extra" or record.schema_version < SCHEMA


def _compare_equal(theirs: Leaf, ours: Leaf, spec: MetricSpec | None, found: Comparison) -> None:
    found.note(theirs, spec)
    if not _equal(theirs.value, ours.value):
        found.differences.append(_difference(theirs, ours))


def _compare_by_interval(
    theirs: Leaf,
    ours: Leaf,
    spec: MetricSpec | None,
    sampling: Sampling,
    level: float,
    found: Comparison,
) -> None:
    one, other = _as_estimate(theirs.value), _as_estimate(ours.value)
    if one.value is None and other.value is None:
        return
    if _shape(theirs.value) != _shape(ours.value):
        # The cell decides whether a value is defined, has an interval and components: leaving one
        # out hides something.
        found.differences.append(_difference(theirs, ours))
        return
    if is_testable(one) and is_testable(other):
        if why := contradiction(one, other, sampling, level):
            found.differences.append(f"{_difference(theirs, ours)} ({why})")
        if is_telling(other, sampling, level):
            found.note(theirs, spec)
        return
    assert one.value is not None and other.value is not None
    counted = sampling.individuals * sampling.runs if spec is CERTIFIED_FALSELY else 1
    if spec is CERTIFIED_FALSELY:
        sampling = replace(sampling, range=SHARE)
    values = one.value / counted, other.value / counted
    reach = reach_without_interval(*values, sampling, level)
    is_claim = spec is CERTIFIED_FALSELY and (one.value > 0) != (other.value > 0)
    if is_claim or abs(values[0] - values[1]) > reach + ROUNDING:
        found.differences.append(f"{_difference(theirs, ours)} (further apart than a repeat is)")
    elif reach > COARSE:
        found.untested.append(theirs.name)
    else:
        found.note(theirs, spec)


def _as_estimate(value: Estimate | float) -> Estimate:
    if isinstance(value, Estimate):
        return value
    return Estimate(value=float(value), low=None, high=None)


def _shape(value: Estimate | float) -> tuple[bool, ...]:
    """Return which numbers a value has."""
    return tuple(number is not None for number in _numbers(value))


def _equal(one: Estimate | float, other: Estimate | float) -> bool:
    return all(_close(a, b) for a, b in zip(_numbers(one), _numbers(other), strict=True))


def _numbers(value: Estimate | float) -> tuple[float | None, ...]:
    """Return all numbers of a value: itself, its interval, its components."""
    if not isinstance(value, Estimate):
        return (value, *(None,) * 5)
    parts = value.components
    components = (parts.victims, parts.seeds, parts.trainings) if parts else (None,) * 3
    return (value.value, value.low, value.high, *components)


def _close(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    return abs(one - other) <= ROUNDING * max(1.0, abs(one))


def _difference(theirs: Leaf, ours: Leaf) -> str:
    texts = _text(theirs.value), _text(ours.value)
    if texts[0] == texts[1]:
        return f"{theirs.name}: other components of the variation"
    return f"{theirs.name} {texts[0]}, again {texts[1]}"


def _text(value: Estimate | float) -> str:
    number, low, high, *_ = _numbers(value)
    if number is None:
        return "undefined"
    if low is None or high is None:
        return f"{number:g}"
    return f"{number:g} ({low:g} to {high:g})"
