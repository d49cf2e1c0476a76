"""Captured updates are compared with what the model computes; what was not compared is said."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from auditing import (
    VICTIMS,
    audited,
    gradient,
    gradients,
    in_batches,
    net,
    people,
)
from leakbench.auditing.client_batches import Clients, captured_batch
from leakbench.auditing.findings import DefenseEffect, UpdatesDiffer, findings_of
from leakbench.auditing.html_page import html_page
from leakbench.auditing.model_splitting import split_model
from leakbench.auditing.sentences import sentence
from leakbench.auditing.threat_model import ThreatModel
from leakbench.auditing.update_check import UpdateCheck, check_update
from leakbench.auditing.updates import CapturedUpdate, UpdateFormat

ROWS = range(8)


def checked(
    tensors: dict[str, Tensor], truth: bool = True, defense: Any = None, **update_format: Any
) -> UpdateCheck:
    model = net()
    shared = split_model(model, "features", people(3).images)
    clients = Clients(shared, model, ThreatModel(defense=defense), "cpu")
    captured = CapturedUpdate("mine", tensors, UpdateFormat(batch_size=8, **update_format))
    batch = captured_batch(captured, clients, people(8), ROWS if truth else ())
    found = check_update(batch, clients)
    assert found is not None
    return found


def trained(rate: float, size: int, optimiser: type[torch.optim.Optimizer]) -> dict[str, Tensor]:
    """The weights of a client after two epochs of mini-batches, in an order of its own."""
    own, of = copy.deepcopy(net()), people(8)
    assert of.labels is not None
    steps = optimiser(own.parameters(), lr=rate)  # type: ignore[call-arg]
    draw = torch.Generator().manual_seed(9)
    for _ in range(2):
        for rows in torch.randperm(8, generator=draw).split(size):
            steps.zero_grad()
            functional.cross_entropy(own(of.images[rows]), of.labels[rows]).backward()
            steps.step()
    return {name: value.detach() for name, value in own.named_parameters()}


STEPS: dict[str, Any] = {
    "kind": "weights",
    "learning_rate": 0.02,
    "local_steps": 4,
    "local_batch": 4,
}


def test_mini_batches_in_an_unknown_order_agree_as_far_as_one_sees() -> None:
    check = checked(trained(0.02, 4, torch.optim.SGD), **STEPS)
    assert check.outcome == "agrees"
    assert check.distance is not None and check.resolution is not None
    assert 0 < check.distance < check.resolution < 0.5


@pytest.mark.parametrize(
    ("rate", "size", "optimiser"),
    [(0.2, 4, torch.optim.SGD), (0.002, 4, torch.optim.SGD), (0.02, 4, torch.optim.Adam)],
)
@pytest.mark.parametrize("whole", [False, True])
def test_another_learning_rate_or_optimiser_is_noticed(
    rate: float, size: int, optimiser: type[torch.optim.Optimizer], whole: bool
) -> None:
    steps = STEPS | ({"local_batch": 8, "local_steps": 2} if whole else {})
    assert checked(trained(rate, 8 if whole else size, optimiser), **steps).outcome == "differs"


def test_mini_batches_that_were_not_declared_are_noticed() -> None:
    steps = STEPS | {"local_batch": None, "local_steps": 2}
    assert checked(trained(0.02, 4, torch.optim.SGD), **steps).outcome == "differs"


def test_noise_that_hides_everything_is_said_to_hide_it() -> None:
    plain = gradient(net(), people(8), ROWS)
    noisy = {name: value + torch.randn_like(value) for name, value in plain.items()}
    check = checked(noisy, defense={"name": "gaussian", "sigma": 1.0})
    assert check.outcome == "not checked" and "so random" in check.reason


def test_without_the_truth_the_output_bias_must_be_that_of_a_cross_entropy() -> None:
    plain = gradient(net(), people(8), ROWS)
    check = checked(plain, truth=False)
    assert (check.outcome, check.reason) == ("not checked", "the truth is not known")
    summed = checked({name: 8 * value for name, value in plain.items()}, truth=False)
    assert summed.outcome == "differs" and "at most 2" in summed.reason
    decayed = {
        name: g + 0.5 * p.detach()
        for (name, p), g in zip(net().named_parameters(), plain.values(), strict=True)
    }
    assert checked(decayed, truth=False).outcome == "differs"
    once = STEPS | {"local_steps": 1, "local_batch": 8}
    adam = checked(trained(0.02, 8, torch.optim.Adam), truth=False, **once)
    assert adam.outcome == "differs"


def test_what_was_not_checked_is_a_limitation() -> None:
    model = net()
    report = audited(model, gradients(model, people(8), 4), batch_size=4)
    assert [update.check for update in report.updates] == ["not checked"] * 2
    assert any(
        each.startswith("Whether 2 of 2 captured updates are what the model computes was not che")
        and "learning rate" in each
        for each in report.limitations
    )


def test_a_mismatch_stands_first_and_defended_clients_are_said_to_be_simulated() -> None:
    model = net()
    tripled = {
        name: {key: 3 * value for key, value in update.items()}
        for name, update in gradients(model, VICTIMS, 4).items()
    }
    report = audited(
        model,
        tripled,
        truth=in_batches(VICTIMS, 4),
        split="head.2",
        attacks={"class_means": {}},
        defenses=[{"name": "gaussian", "sigma": 100.0}],
    )
    first, *others = report.findings_as_data
    assert isinstance(first, UpdatesDiffer)
    assert (first.differing, first.captured, first.first) == (6, 6, "client 0")
    assert first.mismatch == pytest.approx(2.0, rel=1e-3)
    assert "Findings:\n- 6 of 6 captured updates (such as 'client 0', r" in report.summary
    assert "captured updates are not what the model computes" in report.verdict_sentence
    assert [each.label for each in report.defenses] == [
        "none, simulated: not the captured updates",
        "gaussian (sigma = 100.0)",
    ]
    effects = [each for each in others if isinstance(each, DefenseEffect)]
    assert effects and all(each.simulated_otherwise for each in effects)
    assert sentence(effects[0]).startswith("In simulated clients, not those captured: ")
    assert "these rows, the first included, are not of the clients" in html_page(report)


def test_the_summary_has_findings_and_limitations() -> None:
    quick: dict[str, Any] = {"class_means": {}}
    report = audited(net(), None, split="head.2", truth=people(8), batch_size=4, attacks=quick)
    lines = report.summary.splitlines()
    place = lines.index("Limitations:")
    findings = [f"- {each}" for each in report.findings]
    assert lines[:3] == ["Verdict:", f"- {report.verdict_sentence}", "Findings:"]
    assert lines[3 : 3 + len(findings)] == findings
    assert lines[place + 1 :] == [f"- {each}" for each in report.limitations]
    assert not any(update.check == "differs" for update in report.updates)
    assert not any(
        isinstance(each, UpdatesDiffer)
        for each in findings_of(report.updates, report.attacks, report.defenses)
    )
