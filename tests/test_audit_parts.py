"""One part of an audit that fails is not run, with the reason; the others are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from auditing import Net, audited, by_name, net, people
from leakbench import Report
from leakbench.attacks.matching.memory import _activations
from leakbench.attacks.newton_demixing import NewtonDemixing
from leakbench.auditing.case import case_of
from leakbench.auditing.client_batches import Clients
from leakbench.auditing.default_defenses import default_defenses
from leakbench.auditing.labelled_images import check_labels_and_properties
from leakbench.auditing.model_splitting import split_model
from leakbench.auditing.threat_model import ThreatModel
from leakbench.auditing.updates import ReadUpdates, UpdateFormat
from leakbench.base.errors import UsageError
from leakbench.federation.defenses.sparsify import Sparsification
from leakbench.federation.shared_model import SharedModel


def fails(error: BaseException) -> Callable[..., Any]:
    def raising(*_: Any, **__: Any) -> Any:
        raise error

    return raising


QUICK: dict[str, Any] = {"class_means": {}}
"""An attack that takes no time, where the head is the output layer alone."""


def audited_by_two(**changed: Any) -> Report:
    attacks = {**QUICK, "newton_demixing": {"budget": 20}}
    return audited(
        net(), None, split="head.2", truth=people(8), batch_size=4, attacks=attacks, **changed
    )


def test_an_attack_and_a_defense_that_raise_are_not_run_and_the_others_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(NewtonDemixing, "infer", fails(ZeroDivisionError("by zero")))
    monkeypatch.setattr(Sparsification, "protect", fails(RuntimeError("no\nsuch kernel")))
    defenses = [{"name": "sparsify", "fraction": 0.1}, {"name": "gaussian", "sigma": 100.0}]
    report = audited_by_two(defenses=defenses)
    attacks = by_name(report.attacks)
    assert attacks["newton_demixing"].refused == "ZeroDivisionError: by zero"
    assert attacks["class_means"].metrics is not None
    assert "Newton demixing was not run: ZeroDivisionError: by zero." in report.limitations
    refused = {each.name: each.refused for each in report.defenses}
    assert refused["none"] == refused["gaussian"] == ""
    assert "RuntimeError: no such kernel" in refused["sparsify"]
    assert not report.interrupted


def test_what_is_finished_is_kept_on_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NewtonDemixing, "infer", fails(KeyboardInterrupt()))
    report = audited_by_two(defenses=[{"name": "gaussian", "sigma": 100.0}])
    assert report.interrupted and report.defenses == []
    assert by_name(report.attacks)["class_means"].metrics is not None
    assert report.limitations[0].startswith("The audit was interrupted")
    assert "Newton demixing was not run: the audit was interrupted" in report.summary


def test_defenses_that_are_finished_are_kept_on_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Sparsification, "protect", fails(KeyboardInterrupt()))
    defenses = [{"name": "gaussian", "sigma": 100.0}, {"name": "sparsify", "fraction": 0.1}]
    report = audited(
        net(), None, split="head.2", truth=people(8), batch_size=4, attacks=QUICK, defenses=defenses
    )
    assert report.interrupted
    assert [bool(each.refused) for each in report.defenses] == [False, False, True]


def test_ctrl_c_before_anything_is_finished_ends_the_audit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(NewtonDemixing, "infer", fails(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        audited(net(), None, truth=people(8), batch_size=4, attacks=["newton_demixing"])


def test_attacks_see_the_kernel_of_attention_that_can_be_differentiated_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def infer(*_: Any) -> Any:
        seen.append(torch.backends.cuda.flash_sdp_enabled())
        seen.append(not torch.backends.cuda.math_sdp_enabled())
        raise RuntimeError("enough")

    monkeypatch.setattr(NewtonDemixing, "infer", infer)
    with pytest.raises(Exception, match="enough"):
        audited(net(), None, truth=people(8), batch_size=4, attacks=["newton_demixing"])
    assert seen == [False, False]


def test_levels_of_defenses_need_no_individual_that_batch_norm_refuses() -> None:
    torch.manual_seed(0)
    model = Net()
    model.head.insert(2, nn.BatchNorm1d(64))
    truth = check_labels_and_properties(people(8), "the truth", ["bright"], 4)
    aux = check_labels_and_properties(people(40, seed=1), "D_aux", ["bright"], 4)
    threat = ThreatModel(mode="train", property_model="logistic")
    shared = split_model(model, "features", aux.images[:3])
    case = case_of(
        Clients(shared, model, threat, "cpu"), ReadUpdates(), aux, truth, UpdateFormat(batch_size=4)
    )
    clips = [d.parameters["clip"] for d in default_defenses(case) if d.name == "dp_sgd"]
    assert len(clips) == 2 and clips[0] > 0


class Recurrent(nn.Module):
    """Returns a tuple, as nn.LSTM does."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 5, batch_first=True)

    def forward(self, rows: Tensor) -> Tensor:
        return self.lstm(rows)[0][:, -1]


def test_activations_of_modules_that_return_tuples_are_counted() -> None:
    model = SharedModel(Recurrent(), nn.Linear(5, 3))
    # (2, 4, 5), the last states (1, 2, 5) twice, and logits (2, 3).
    assert _activations(model, torch.rand(2, 4, 8)) == 40 + 20 + 6


def test_grey_images_are_for_a_model_of_one_channel_and_repeated_for_one_of_three() -> None:
    grey = [replace(each, images=each.images[:, :1]) for each in (people(8), people(40, seed=1))]
    truth, aux = grey
    model = net()
    shown = audited(
        model, None, auxiliary=aux, truth=truth, batch_size=4, attacks=QUICK, split="head.2"
    )
    assert shown.updates[0].individuals
    (note,) = [each for each in shown.limitations if each.startswith("Grey images are given to")]
    assert "of one channel it does not take them (RuntimeError: Given groups=1" in note
    model.features[0] = nn.Conv2d(1, 8, 3, padding=1)
    one = audited(model, None, auxiliary=aux, truth=truth, batch_size=4)
    assert one.attacks[-1].certified == 8
    assert not any(each.startswith("Grey images") for each in one.limitations)
    model.features[0] = nn.Conv2d(2, 8, 3, padding=1)
    with pytest.raises(UsageError, match=r"does not take images of shape \(3, 1, 8, 8\)"):
        audited(model, None, auxiliary=aux, truth=truth, batch_size=4)
