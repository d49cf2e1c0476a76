"""Forged records of several runs, of few batches and of controls are found."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import DATASETS, MODELS
from leakbench.conformance.setting import SETUP
from leakbench.records.checks import faults
from leakbench.records.record import Environment, Record
from leakbench.verification.compare import chosen, compare
from leakbench.verification.verify import compared
from measuring import measured

Edit = Callable[[dict[str, Any]], None]

FINISHED = {"finished": "2026-01-01T00:00:00+00:00"}


def record_of(attack: str, parameters: dict[str, object], **fields: object) -> Record:
    complete = {
        "dataset_parameters": parameters_of(build(DATASETS, "synthetic", SETUP.dataset_parameters)),
        "model_parameters": parameters_of(build(MODELS, SETUP.model, SETUP.model_parameters)),
    }
    setup = SETUP.model_copy(update=complete)
    return measured(setup, None, attack, parameters, **fields).model_copy(update=FINISHED)


@pytest.fixture(scope="module")
def several() -> Record:
    """Two trainings, attacked twice each."""
    runs: dict[str, object] = {"trainings": 2, "attack_seeds": 2}
    return record_of("feature", {"budget": 4}, batch_size=2, individuals=24, **runs)


@pytest.fixture(scope="module")
def few() -> Record:
    """Four batches, whose numbers have no intervals, under a defense."""
    defense: dict[str, object] = {"defense": "gaussian", "defense_parameters": {"sigma": 0.1}}
    seeds: dict[str, object] = {"attack_seeds": 2}
    return record_of("feature", {"budget": 4}, batch_size=8, individuals=32, **defense, **seeds)


@pytest.fixture(scope="module")
def control() -> Record:
    return record_of("labels", {}, batch_size=1, individuals=72)


def forged(record: Record, change: Edit) -> Record:
    content = json.loads(record.model_dump_json())
    change(content["metrics"])
    return Record.model_validate(content)


def faults_of(record: Record) -> list[str]:
    return list(faults(record, record.key))


def of_gender(metrics: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = metrics["properties"]["gender"]
    return found


def test_what_was_measured_has_no_faults_and_agrees_with_itself(
    several: Record, few: Record, control: Record
) -> None:
    for record in (several, few, control):
        assert faults_of(record) == []
        assert compare(record, record, "equal").agrees
        assert not compare(record, record, "interval").differences
    assert compare(control, control, "interval").agrees


def test_numbers_without_intervals_are_no_agreement_where_chance_alone_allows_all(
    few: Record,
) -> None:
    """The distortion and the cost of the defense are right, and say nothing of the attack."""
    found = compare(few, few, "interval")
    assert not found.agrees
    assert "properties['gender'].balanced_accuracy" in found.untested
    assert "defense.utility" not in found.untested


def test_perfect_numbers_of_few_batches_are_found(few: Record) -> None:
    def perfect(metrics: dict[str, Any]) -> None:
        for of in metrics["properties"].values():
            for name in ("accuracy", "balanced_accuracy", "auc"):
                of[name]["value"] = 1.0
        metrics["exact"]["value"] = 1.0

    found = compare(forged(few, perfect), few, "interval").differences
    assert any("gender'].accuracy 1, again" in each for each in found)
    assert any(each.startswith("exact 1, again") for each in found)


@pytest.mark.parametrize("by", [0.1, 0.25])
def test_a_shifted_control_is_found_whatever_its_interval(control: Record, by: float) -> None:
    def shift(metrics: dict[str, Any]) -> None:
        estimate = of_gender(metrics)["accuracy"]
        for name in ("value", "low", "high"):
            estimate[name] = min(1.0, estimate[name] + by)

    (said,) = compare(forged(control, shift), control, "interval").differences
    assert "gender'].accuracy" in said


def test_a_control_may_differ_by_two_decisions(control: Record) -> None:
    def shift(metrics: dict[str, Any]) -> None:
        of_gender(metrics)["accuracy"]["value"] += 2 / 72

    assert compare(forged(control, shift), control, "interval").agrees


def without(name: str) -> Edit:
    return lambda metrics: metrics.pop(name)


def components(**numbers: float | None) -> Edit:
    def change(metrics: dict[str, Any]) -> None:
        found = of_gender(metrics)["accuracy"]["components"]
        for name, number in numbers.items():
            found[name] = number

    return change


def no_swaps(metrics: dict[str, Any]) -> None:
    for of in metrics["properties"].values():
        of.pop("swapped_balanced_accuracy")


def no_components(metrics: dict[str, Any]) -> None:
    of_gender(metrics)["accuracy"].pop("components")


def narrow(metrics: dict[str, Any]) -> None:
    estimate = of_gender(metrics)["accuracy"]
    estimate["low"], estimate["high"] = estimate["value"] - 0.01, estimate["value"] + 0.01


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (without("runs"), "no number of runs, and its cell has 4"),
        (lambda metrics: metrics.update(runs=40), "40 runs, and its cell has 4"),
        (without("swapped_cosine"), "a feature cosine, and no swapped_cosine"),
        (no_swaps, "and no properties['gender'].swapped_balanced_accuracy"),
        (no_components, "gender'].accuracy with no components of its variation, of 4 runs"),
        (components(seeds=None), "accuracy with no variation between seeds"),
        (components(trainings=None), "accuracy with no variation between trainings"),
        (narrow, "which is narrower than its components allow"),
        (components(victims=0.0, seeds=0.0, trainings=0.0), ""),
    ],
)
def test_metrics_that_do_not_come_from_the_runs_of_the_cell_are_found(
    several: Record, change: Edit, fault: str
) -> None:
    """The components by themselves may be 0: only measuring again tells."""
    record = forged(several, change)
    assert any(fault in each for each in faults_of(record)) == bool(fault)
    assert compare(record, several, "equal").differences
    if change is not narrow:
        assert compare(several, record, "equal").differences


def test_one_run_has_no_components_and_no_number_of_runs(control: Record) -> None:
    def one(metrics: dict[str, Any]) -> None:
        metrics["runs"] = 1

    def spread(metrics: dict[str, Any]) -> None:
        of_gender(metrics)["accuracy"]["components"] = {"victims": 0.1}

    def swapped(metrics: dict[str, Any]) -> None:
        metrics["feature_cosine"] = None

    assert any("1 runs" in each for each in faults_of(forged(control, one)))
    assert any("accuracy with components of" in e for e in faults_of(forged(control, spread)))
    assert any("swapped_cosine, and no feature" in e for e in faults_of(forged(control, swapped)))


def certified(share: float, false: int) -> Edit:
    def change(metrics: dict[str, Any]) -> None:
        metrics["certificates"] = {"share": share, "false": false}

    return change


def test_false_certificates_are_not_forgotten_nor_shares_of_them_shifted(several: Record) -> None:
    """96 decisions in all runs."""
    some, none = forged(several, certified(0.5, 3)), forged(several, certified(0.5, 0))
    for one, other in ((some, none), (none, some)):
        (said,) = compare(one, other, "interval").differences
        assert said.startswith("certificates.false")
    assert not compare(some, forged(several, certified(0.5, 5)), "interval").differences
    (said,) = compare(some, forged(several, certified(1.0, 3)), "interval").differences
    assert said.startswith("certificates.share")
    exact = several.metrics.exact if several.metrics else None
    assert exact is not None and exact.value is not None and exact.value < 0.5
    assert any("48 true certificates, and" in each for each in faults_of(none))


def test_who_is_certified_is_claimed(several: Record) -> None:
    def fewer(metrics: dict[str, Any]) -> None:
        certified(0.5, 0)(metrics)
        metrics["claimed"] = {"share": 0.25, "right": 1.0}

    found = faults_of(forged(several, fewer))
    assert any("certified 0.5, and claimed 0.25" in each for each in found)


def test_another_environment_is_compared_by_the_interval(several: Record) -> None:
    own = several.environment
    assert own is not None and own.processor
    elsewhere = own.model_copy(update={"processor": "another"})
    for environment in (None, Environment(compiled=True, threads=7), elsewhere):
        other = several.model_copy(update={"environment": environment})
        assert chosen("auto", several, other) == "interval"
    assert chosen("auto", several, several) == "equal"
    # Earlier records do not say on which processor they were measured: perhaps on another.
    earlier = several.model_copy(update={"environment": own.model_copy(update={"processor": None})})
    assert chosen("auto", earlier, earlier) == "interval"


def test_equal_numbers_agree_wherever_they_were_measured(several: Record) -> None:
    elsewhere = several.model_copy(update={"environment": None})
    found = compared(elsewhere, several, "auto")
    assert (found.rule, found.agrees) == ("equal", True)

    def shift(metrics: dict[str, Any]) -> None:
        of_gender(metrics)["accuracy"]["value"] -= 0.01

    assert compared(forged(elsewhere, shift), several, "auto").rule == "interval"


@pytest.mark.parametrize(
    ("processor", "rounds", "by", "agrees"),
    [
        ("same", 5, 0.05, False),
        ("other", 5, 0.05, True),
        (None, 5, 0.05, True),
        ("other", 0, 0.05, False),
        ("other", 5, 0.25, False),
    ],
)
def test_a_model_that_is_trained_on_another_processor_is_another_one(
    control: Record, processor: str | None, rounds: int, by: float, agrees: bool
) -> None:
    """An attack without random numbers too reads other features then."""

    def shift(metrics: dict[str, Any]) -> None:
        estimate = of_gender(metrics)["accuracy"]
        for name in ("value", "low", "high"):
            estimate[name] -= by

    def trained(record: Record, processor: str | None) -> Record:
        assert record.environment is not None
        environment = record.environment.model_copy(update={"processor": processor})
        cell = record.cell.model_copy(update={"rounds": rounds})
        update = {"environment": environment, "cell": cell, "knowledge": ("model", "auxiliary")}
        return record.model_copy(update=update)

    theirs, ours = trained(forged(control, shift), processor), trained(control, "same")
    assert (not compare(theirs, ours, "interval").differences) == agrees
