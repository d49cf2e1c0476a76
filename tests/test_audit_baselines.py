"""Baselines of an audit: which are fair, and what is said where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from auditing import VICTIMS, audited, by_name, net
from leakbench import Report
from leakbench.base.errors import UsageError
from leakbench.base.registry import ATTACKS
from leakbench.threat.attack import AttackResult


def test_a_property_that_everybody_has_is_constant_and_lacks_no_baseline() -> None:
    bright = torch.ones(24, dtype=torch.bool)
    report = audited(
        net(),
        None,
        truth=replace(VICTIMS, properties={"bright": bright}),
        batch_size=4,
        attacks={"feature": {"budget": 2, "labels": "counts"}},
        defenses=[{"name": "gaussian", "sigma": 100.0}],
    )
    assert [each.kind for each in report.findings_as_data[:1]] == ["constant property"]
    assert [each.verdict.reason for each in report.defenses] == ["constant property"] * 2


def without_output_bias(attacks: dict[str, dict[str, Any]]) -> Report:
    model = net()
    model.head[-1] = torch.nn.Linear(64, 4, bias=False)
    return audited(
        model,
        None,
        truth=VICTIMS,
        batch_size=4,
        attacks=attacks,
        defenses=[{"name": "gaussian", "sigma": 100.0}],
    )


def test_where_labels_cannot_be_recovered_baselines_without_them_are_the_fair_ones() -> None:
    report = without_output_bias({"feature": {"budget": 2, "labels": "joint"}})
    attacks = by_name(report.attacks)
    for control in ("blind", "labels"):
        assert attacks[control].parameters == {"labels": "ignored"}
        assert attacks[control].knows == ["model", "auxiliary"]
    assert attacks["feature"].advantage["bright"].low is not None
    values = {
        name: each.metrics.properties["bright"].balanced_accuracy.value or 0.0
        for name in ("prior", "blind", "labels")
        if (each := attacks[name]).metrics is not None
    }
    assert attacks["feature"].baselines == {"bright": max(values, key=lambda n: values[n])}
    assert report.findings_as_data[0].kind == "inferred property"
    assert {each.verdict.reason for each in report.defenses}.isdisjoint(
        {"constant property", "no baseline"}
    )


@pytest.mark.parametrize("refused", ["blind", "labels"])
def test_where_a_baseline_is_refused_no_advantage_is_given(
    refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def infer(*_: Any) -> list[AttackResult]:
        raise UsageError("it does not fit")

    monkeypatch.setattr(ATTACKS.get(refused), "infer", infer)
    report = audited(
        net(),
        None,
        truth=VICTIMS,
        batch_size=4,
        attacks={"feature": {"budget": 2, "labels": "counts"}},
        defenses=[{"name": "gaussian", "sigma": 100.0}],
    )
    attack = by_name(report.attacks)["feature"]
    assert attack.baselines == {} and attack.advantage["bright"].value is None
    assert report.findings_as_data[0].kind == "no baseline"
    assert [each.verdict.reason for each in report.defenses] == ["no baseline"] * 2
    assert f"{by_name(report.attacks)[refused].title} was not run: it does not fit." in (
        report.limitations
    )


def test_baselines_that_are_told_to_ignore_labels_which_attacks_recover_are_none() -> None:
    report = audited(
        net(),
        None,
        truth=VICTIMS,
        batch_size=4,
        attacks={
            "blind": {"labels": "ignored"},
            "labels": {"labels": "ignored"},
            "feature": {"budget": 2, "labels": "counts"},
        },
    )
    assert report.findings_as_data[0].kind == "no baseline"
