"""Running statistics that clients send beside their weights tell those of their batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from auditing import VICTIMS, audited, by_name, in_batches
from leakbench import Report
from leakbench.auditing.client_batches import Clients, captured_batch
from leakbench.auditing.model_splitting import split_model
from leakbench.auditing.sent_statistics import sent_statistics
from leakbench.auditing.threat_model import ThreatModel
from leakbench.auditing.updates import CapturedUpdate, UpdateFormat, UpdateKind
from leakbench.base.errors import UsageError
from leakbench.federation.batch_norm import batch_statistics, in_mode

SEARCH = {"volleys": 20, "reflections": 400, "reflected_at_once": 32, "budget": 1}


def network() -> nn.Module:
    """A last convolution of 1×1 with BatchNorm, whose running statistics are far from a batch's."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(384)
    norm.running_mean, norm.running_var = torch.rand(384), torch.rand(384) + 0.5
    features = nn.Sequential(
        nn.Conv2d(3, 96, 4, stride=4),
        nn.Tanh(),
        nn.Conv2d(96, 384, 1, bias=False),
        norm,
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return nn.Sequential(features, nn.Linear(384, 4))


def sent(number: int) -> dict[str, Tensor]:
    """Weights and running statistics after a step of the victims' batch of that number."""
    model = network().train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    rows = slice(4 * number, 4 * number + 4)
    assert VICTIMS.labels is not None
    functional.cross_entropy(model(VICTIMS.images[rows]), VICTIMS.labels[rows]).backward()
    optimiser.step()
    return dict(model.state_dict())


def report_on(updates: dict[str, dict[str, Tensor]], **changed: Any) -> Report:
    return audited(
        network(),
        updates,
        split="0",
        kind="weights",
        learning_rate=0.1,
        attacks={"convolution_demixing": SEARCH},
        **changed,
    )


def test_everybody_is_certified_in_training_mode() -> None:
    batches = {f"batch{number}": sent(number) for number in range(2)}
    report = report_on(batches, batch_size=4)
    assert report.threat["mode"] == "train"
    found = by_name(report.attacks)["convolution_demixing"]
    assert "statistics" in found.knows
    assert found.certified == 8


def test_certificates_are_true() -> None:
    updates = {f"client {number}": sent(number) for number in range(6)}
    report = report_on(updates, truth=in_batches(VICTIMS, 4))
    assert all(update.check == "agrees" for update in report.updates)
    found = by_name(report.attacks)["convolution_demixing"]
    assert (found.certified, found.false_certificates) == (24, 0)


def test_without_running_statistics_the_attack_says_what_it_needs() -> None:
    trained = [name for name, _ in network().named_parameters()]
    updates = {"batch0": {name: value for name, value in sent(0).items() if name in trained}}
    with pytest.raises(UsageError, match="capture weights with their running statistics"):
        report_on(updates, batch_size=4, mode="train")


def test_several_local_steps_tell_no_statistics() -> None:
    with pytest.raises(UsageError, match="capture weights with their running statistics"):
        report_on({"batch0": sent(0)}, batch_size=4, local_steps=2, mode="train")


@pytest.mark.parametrize("kind", ["weights", "difference"])
def test_statistics_are_those_of_the_batch(kind: UpdateKind) -> None:
    threat = ThreatModel(mode="train")
    model = network()
    split = split_model(model, "0", VICTIMS.images[:3])
    tensors = sent(0)
    if kind == "difference":
        tensors = {name: tensors[name] - old for name, old in model.state_dict().items()}
    form = UpdateFormat(kind=kind, learning_rate=0.1, batch_size=4)
    captured = CapturedUpdate("batch0", tensors, form)
    clients = Clients(split, model, threat, "cpu")
    batch = captured_batch(captured, clients, None, ())
    found = sent_statistics(captured, batch, clients, VICTIMS.images[:1])
    assert found is not None
    expected = batch_statistics(in_mode(split, "train"), VICTIMS.images[:4])
    assert found.keys() == expected.keys()
    for layer, moments in expected.items():
        for mine, theirs in zip(found[layer], moments, strict=True):
            torch.testing.assert_close(mine.float(), theirs, rtol=1e-4, atol=1e-5)
