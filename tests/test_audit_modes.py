"""Clients that normalise by the batch are audited as they are."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from auditing import VICTIMS, Net, audited, by_name, gradient, gradients, in_batches, people
from leakbench import Report
from leakbench.auditing.batch_features import features_in_batches, features_together
from leakbench.auditing.model_splitting import split_model
from leakbench.base.choices import Mode


class Normalised(Net):
    """BatchNorm before the head, with running statistics far from those of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.features.insert(1, nn.BatchNorm2d(8))


def normalised() -> Normalised:
    torch.manual_seed(0)
    model = Normalised()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean = torch.rand(8)
            module.running_var = torch.rand(8) + 0.5
    return model


@cache
def captured(mode: Mode) -> dict[str, dict[str, Tensor]]:
    model = normalised().train(mode == "train")
    return gradients(model, VICTIMS, 4)


def audited_in(clients: Mode, **changed: Any) -> Report:
    return audited(normalised(), captured(clients), **changed)


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_mode_is_read_off_the_updates_and_certificates_are_true(mode: Mode) -> None:
    report = audited_in(mode, truth=in_batches(VICTIMS, 4))
    assert report.threat["mode"] == mode
    assert f"in mode {mode}: the truth gives the updates in this mode." in report.summary
    assert all(update.check == "agrees" for update in report.updates)
    found = by_name(report.attacks)["mask_demixing"]
    assert (found.certified, found.false_certificates) == (24, 0)
    assert found.metrics is not None
    assert found.metrics.properties["bright"].balanced_accuracy.value is not None
    cosines = [i.answers["mask_demixing"].cosine for u in report.updates for i in u.individuals]
    assert min(each or 0.0 for each in cosines) > 0.999


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_without_the_truth_gradients_show_the_mode(mode: Mode) -> None:
    report = audited_in(mode, batch_size=4)
    assert report.threat["mode"] == mode
    right = "" if mode == "train" else "not "
    assert f"gradients of weights before BatchNorm are {right}orthogonal to" in report.summary


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_running_statistics_in_weights_show_the_mode(mode: Mode) -> None:
    model = normalised().train(mode == "train")
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    functional.cross_entropy(model(VICTIMS.images[:4]), torch.tensor([0, 1, 2, 3])).backward()
    optimiser.step()
    report = audited(
        normalised(),
        {"client": dict(model.state_dict())},
        kind="weights",
        learning_rate=0.1,
        batch_size=4,
    )
    assert report.threat["mode"] == mode
    assert "running statistics in the updates" in report.summary


def test_another_mode_than_the_updates_show_is_pointed_out() -> None:
    report = audited_in("train", truth=in_batches(VICTIMS, 4), mode="eval")
    assert "clients seem to be in mode train, in which these findings do not hold" in report.summary
    assert "are not what the model computes from their truth" in report.findings[0]


def test_where_nothing_shows_the_mode_the_assumption_is_said() -> None:
    report = audited(normalised(), None, truth=people(8), batch_size=4)
    assert report.threat["mode"] == "eval"
    assert any("assumed to run BatchNorm with its running" in each for each in report.limitations)


def test_features_of_d_aux_are_normalised_in_batches_of_the_clients_size() -> None:
    images = people(12).images
    shared = split_model(normalised(), "features", images[:3])
    assert torch.equal(
        features_in_batches(shared, images, "eval", 4), shared.features(images).detach()
    )
    torch.testing.assert_close(
        features_in_batches(shared, images, "train", 12), features_together(shared, images, "train")
    )
    apart = features_in_batches(shared, images, "train", 4)
    assert not torch.allclose(apart, features_together(shared, images, "train"))


def test_a_client_alone_in_a_batch_that_it_cannot_normalise_is_left_out() -> None:
    """BatchNorm of flat features needs two individuals."""
    torch.manual_seed(0)
    model = Net()
    model.features = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.BatchNorm1d(16), nn.ReLU())
    model.head = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    updates = {
        "two": gradient(model, people(3), [0, 1]),
        "one": gradient(model.eval(), people(3), [2]),
    }
    truth = replace(people(3), updates=["two", "two", "one"])
    report = audited(model, updates, truth=truth, mode="train")
    assert [update.name for update in report.updates] == ["two"]
    assert "update 'one' cannot be audited: ValueError" in report.summary


def test_what_a_model_raises_while_its_mode_is_sought_is_named() -> None:
    torch.manual_seed(0)
    model = Net()
    model.features = nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.BatchNorm1d(16), nn.ReLU())
    model.head = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 4))
    sent = {"client 0": gradient(model.eval(), people(1), [0])}
    report = audited(model, sent, truth=in_batches(people(1), 1))
    (note,) = [each for each in report.limitations if "cannot be read from the truth" in each]
    assert "in mode train update 'client 0' fails with ValueError: Expected more than 1" in note
