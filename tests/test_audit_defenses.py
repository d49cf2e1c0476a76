"""Defenses in an audit: the attacks under them, and their utility cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from auditing import (
    audited,
    audited_with_truth,
    by_name,
    net,
    people,
)
from leakbench import FederatedTraining, Report
from leakbench.auditing import attacking
from leakbench.auditing import training as training_module
from leakbench.auditing.report_parts import Verdict
from leakbench.base.errors import UsageError
from leakbench.federation.defense import Defense

SHORT: Any = {"feature": {"budget": 2, "labels": "counts"}}
"""Attacks of an audit whose subject is something else."""


@pytest.fixture(scope="module", name="with_truth")
def _with_truth() -> Report:
    return audited_with_truth()


def test_a_defense_is_judged_by_attacks_that_know_it(with_truth: Report) -> None:
    defenses = {defense.name: defense for defense in with_truth.defenses}
    assert list(defenses) == ["none", "gaussian", "secure_aggregation"]
    assert defenses["none"].verdict == Verdict(
        outcome="leaks", reason="certified features", certified=24
    )
    noisy = defenses["gaussian"]
    assert "defense" in by_name(noisy.attacks)["mask_demixing"].knows
    assert by_name(noisy.attacks)["mask_demixing"].certified == 0
    assert noisy.verdict.outcome != "leaks"
    assert (
        noisy.distortion is not None
        and noisy.distortion.value is not None
        and noisy.distortion.value > 10
    )
    assert noisy.utility is None and noisy.utility_not_measured.startswith(
        "utility was not measured"
    )
    # Four of the six clients make one group; the others are in none.
    together = defenses["secure_aggregation"]
    assert (together.individuals, together.left_out) == (16, 8)


def test_the_utility_cost_of_a_defense_is_that_of_training_under_it() -> None:
    asked: list[str | None] = []

    def training(defense: Defense | None) -> list[bool]:
        asked.append(None if defense is None else defense.name)
        return [defense is None or number % 2 == 0 for number in range(40)]

    report = audited(
        net(),
        None,
        truth=people(8, seed=2),
        batch_size=4,
        defenses=[{"name": "gaussian", "sigma": 100.0}],
        training=training,
        attacks=SHORT,
    )
    assert asked == [None, "gaussian"]
    none, noisy = report.defenses
    assert none.utility_cost is not None and none.utility_cost.value == 0.0
    assert noisy.utility is not None and noisy.utility.value == 0.5
    assert (
        noisy.utility_cost is not None
        and noisy.utility_cost.value == 0.5
        and noisy.utility_cost.low is not None
    )
    assert 0 < noisy.utility_cost.low < 0.5


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (ZeroDivisionError("lost"), "under gaussian failed: ZeroDivisionError: lost"),
        ([True], "tests 2 images without a defense and 1 under 'gaussian'"),
        ([None, None], "under gaussian failed: it must return True or False"),
    ],
)
def test_after_a_training_that_fails_only_the_utility_is_missing(after: Any, said: str) -> None:
    def training(defense: Defense | None) -> Any:
        if defense is not None and isinstance(after, Exception):
            raise after
        return [True, False] if defense is None else after

    tables = [{"name": "gaussian", "sigma": 1.0}]
    given: dict[str, Any] = {"truth": people(8, seed=2), "batch_size": 4, "defenses": tables}
    given["attacks"] = SHORT
    report = audited(net(), None, **given, training=training)
    none, noisy = report.defenses
    assert none.utility is not None and noisy.utility is None
    assert noisy.attacks and said in noisy.utility_not_measured

    def broken(_: Defense | None) -> Any:
        raise ZeroDivisionError

    report = audited(net(), None, **given, training=broken)
    assert all("without a defense failed" in each.utility_not_measured for each in report.defenses)


def test_a_defense_comes_on_top_of_what_clients_do_already() -> None:
    data, seen = people(16, seed=5), []
    assert data.labels is not None
    training = FederatedTraining(
        images=data.images,
        labels=data.labels,
        test_images=data.images,
        test_labels=data.labels,
        rounds=1,
        clients=2,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training_module, "train", lambda *given, **_: seen.append(given[-1]))
        report = audited(
            net(),
            None,
            truth=people(8, seed=2),
            batch_size=4,
            learning_rate=0.1,
            local_steps=2,
            defenses=[{"name": "gaussian", "sigma": 1.0}, {"name": "local_steps", "epochs": 4}],
            training=training,
            attacks=SHORT,
        )
    none, noisy, twice = report.defenses
    # Two steps are about twice one gradient.
    assert (
        none.distortion is not None
        and none.distortion.value is not None
        and none.distortion.value > 0.5
    )
    assert noisy.distortion is not None and "defense" in by_name(none.attacks)["feature"].knows
    assert "local_steps" in twice.refused and "cannot come after" in twice.refused
    assert len(seen) == 2
    assert all("LocalSteps" in step.__qualname__ for step in seen[:1])


def test_federated_training_starts_from_new_weights() -> None:
    data = people(64, seed=5)
    few = people(16, seed=2)  # Too few batches to say that an attack fails without the defense.
    bright = data.properties["bright"].long()
    test = people(64, seed=6)
    training = FederatedTraining(
        images=data.images,
        labels=bright,
        test_images=test.images,
        test_labels=test.properties["bright"].long(),
        rounds=60,
    )
    report = audited(
        net(2),
        None,
        truth=replace(few, labels=few.properties["bright"].long()),
        auxiliary=replace(people(120, seed=1), labels=None),
        batch_size=4,
        defenses=[{"name": "dp_sgd", "clip": 0.01, "noise": 100.0}],
        training=training,
        attacks=SHORT,
    )
    none, private = report.defenses
    assert none.utility is not None and none.utility.value is not None
    assert none.utility.value > 0.9
    assert (
        private.utility_cost is not None
        and private.utility_cost.value is not None
        and private.utility_cost.value > 0.2
    )
    assert private.delta == 1 / 8


@pytest.mark.slow
def test_the_usual_defenses_are_at_levels_of_the_gradient() -> None:
    given: dict[str, Any] = {"truth": people(8, seed=2), "batch_size": 4, "attacks": SHORT}
    report = audited(net(), None, **given, defenses=None)
    names = [defense.name for defense in report.defenses]
    assert names[0] == "none" and {"gaussian", "dp_sgd", "sparsify", "local_steps"} <= set(names)
    noise = next(defense for defense in report.defenses if defense.name == "gaussian")
    assert noise.distortion is not None and noise.distortion.value is not None
    assert 0.5 < noise.distortion.value < 2
    assert "Further local steps are tried with learning rate 0.1." in report.limitations
    assert "secure_aggregation" not in names


def test_a_defense_under_which_no_attack_can_be_run_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = attacking._attacked

    def refusing(case: Any, attack: Any, batches: Any, *others: Any) -> Any:
        if batches[0].defense.name == "gaussian" and not attack.control:
            raise UsageError("it does not fit")
        return run(case, attack, batches, *others)

    monkeypatch.setattr(attacking, "_attacked", refusing)
    tables = [{"name": "gaussian", "sigma": 1.0}]
    report = audited(net(), None, truth=people(8, seed=2), batch_size=4, defenses=tables)
    assert report.defenses[1].refused == "no attack could be run: it does not fit"
    assert "gaussian (sigma = 1.0) was not tried: no attack could" in " ".join(report.limitations)
