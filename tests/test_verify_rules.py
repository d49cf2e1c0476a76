"""The rules by which a record and its repeat agree: equality, or intervals of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from leakbench.metrics.estimates import Estimate
from leakbench.records.record import Record
from leakbench.records.verified import Rule
from leakbench.verification.compare import chosen, compare
from leakbench.verification.verify import Verification, compared

pytest_plugins = ["verification_fixtures"]


def estimate(value: float, low: float, high: float) -> Estimate:
    return Estimate(value=value, low=low, high=high)


def changed(record: Record, accuracy: Estimate) -> Record:
    assert record.metrics is not None
    of = record.metrics.properties["gender"].model_copy(update={"accuracy": accuracy})
    metrics = record.metrics.model_copy(
        update={"properties": {**record.metrics.properties, "gender": of}}
    )
    return record.model_copy(update={"metrics": metrics})


def test_the_rule_is_equality_where_device_and_versions_are_the_same(record: Record) -> None:
    assert chosen("auto", record, record) == "equal"
    assert chosen("auto", record, record.model_copy(update={"device": "cuda"})) == "interval"
    other = record.model_copy(update={"versions": {**record.versions, "torch": "1.0"}})
    assert chosen("auto", record, other) == "interval"
    assert chosen("equal", record, other) == "equal"


def differences(record: Record, anew: Record, rule: Rule) -> list[str]:
    return compare(record, anew, rule).differences


def test_equality_is_up_to_rounding_and_intervals_allow_for_chance(record: Record) -> None:
    theirs = changed(record, estimate(0.5, 0.4, 0.6))
    assert not differences(theirs, changed(record, estimate(0.5 + 1e-7, 0.4, 0.6)), "equal")
    near = changed(record, estimate(0.55, 0.45, 0.65))
    assert not differences(theirs, near, "interval")
    (said,) = differences(theirs, near, "equal")
    assert said == "properties['gender'].accuracy 0.5 (0.4 to 0.6), again 0.55 (0.45 to 0.65)"
    far = changed(record, estimate(0.99, 0.89, 1.0))
    (said,) = differences(theirs, far, "interval")
    assert said.endswith("(further apart than a repeat is)")


def test_an_interval_of_everything_lets_no_value_through(record: Record) -> None:
    ours = changed(record, estimate(0.5, 0.45, 0.55))
    for low, high in ((0.0, 1.0), (0.45, 1.0), (0.9, 1.0), (0.949, 0.951)):
        forged = changed(record, estimate(0.95, low, high))
        assert len(differences(forged, ours, "interval")) == 1


def test_what_has_no_interval_is_not_counted_as_agreement(record: Record) -> None:
    """An estimate of few batches has a value alone, in the record and again."""
    assert record.metrics is not None
    valued = changed(record, Estimate(value=0.5, low=None, high=None))
    far = changed(record, Estimate(value=0.9, low=None, high=None))
    found = compare(valued, far, "interval")
    assert "properties['gender'].accuracy" in found.untested
    assert not found.differences
    assert compare(valued, far, "equal").differences
    # A forger who leaves out the interval that the cell has is found.
    (said,) = differences(valued, changed(record, estimate(0.5, 0.4, 0.6)), "interval")
    assert said == "properties['gender'].accuracy 0.5, again 0.5 (0.4 to 0.6)"

    bare = without_intervals(record)
    found = compare(bare, bare, "interval")
    assert (found.tested, found.differences, found.agrees) == (set(), [], False)
    entry = compared(bare, bare, "interval")
    assert (entry.outcome, entry.agrees) == ("untestable", False)
    assert "properties['gender'].auc" in entry.untested


def without_intervals(record: Record) -> Record:
    """The record as of a cell with too few batches for any interval."""

    def bare(tree: Any) -> Any:
        if isinstance(tree, dict):
            ends = dict.fromkeys(("low", "high")) if "low" in tree else {}
            return {key: bare(value) for key, value in tree.items()} | ends
        return tree

    return Record.model_validate(bare(record.model_dump(mode="json")))


def test_one_record_that_is_not_testable_is_no_success(made: Path, record: Record) -> None:
    found = Verification(made, seed=1, records=3, asked=1, sample=(record.key,))
    bare = without_intervals(record)
    found.entries[record.key] = compared(bare, bare, "interval")
    assert (found.wrong, found.code) == (False, 3)
    assert f"{record.key}.json is not testable by the rule 'interval'" in found.text()
    assert "1 measured again, 0 of them agree" in found.text()


def test_what_the_data_decide_is_equal_under_either_rule(record: Record) -> None:
    assert record.metrics is not None
    of = record.metrics.properties["gender"].model_copy(update={"prevalence": 0.125})
    metrics = record.metrics.model_copy(
        update={"properties": {**record.metrics.properties, "gender": of}}
    )
    other = record.model_copy(update={"metrics": metrics})
    (said,) = differences(record, other, "interval")
    assert said.startswith("properties['gender'].prevalence")
