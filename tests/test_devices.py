"""Plugins compute on the device that they are given.

The conformance suite runs on every device there is (`test_conformance.py`). Here the rules under
which a plugin computes run on a device that is pretended, so that a machine without a GPU finds
tensors of two devices in one operation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet
from torch import Tensor

from conforming import ALIKE, assert_kept
from leakbench.base.registry import ATTACKS, DEFENSES, MODELS
from leakbench.conformance.attack_trial import AttackTrial
from leakbench.conformance.attacks import ATTACK_CHECKS
from leakbench.conformance.check import Check
from leakbench.conformance.defenses import DEFENSE_CHECKS, DefenseTrial
from leakbench.conformance.models import MODEL_CHECKS, ModelTrial
from leakbench.federation.client import Client, Update, gradient
from leakbench.federation.defenses.noise import GaussianNoise
from pretended_device import DEVICE, pretended_device


@pytest.fixture
def device() -> Iterator[str]:
    with pretended_device() as name:
        yield name


OF_DEFENSES = (
    "sends something for every parameter",
    "has reliabilities from 0 to 1",
    "has surrogates that can be differentiated",
    "protects victims of a trained model",
)
"""Checks that between them run all of a defense's code."""

OF_MODELS = ("can be differentiated twice", "follows its device")
"""Checks that between them run all of a model's code, large as it may be."""

FORWARD_MODE = ("soteria",)
"""Defenses that differentiate forwards, which the pretended device cannot."""

OF_ATTACKS = ("can be measured",)
"""Checks that run all of an attack's code, and that of scoring."""


def each(
    names: list[str], checks: tuple[Check, ...], chosen: tuple[str, ...]
) -> pytest.MarkDecorator:
    """Every plugin with the chosen checks."""
    known = {check.name: check for check in checks}
    pairs = [(name, known[check]) for name in names for check in chosen]
    return pytest.mark.parametrize(("name", "check"), pairs, ids=str)


@each([n for n in DEFENSES.own() if n not in FORWARD_MODE], DEFENSE_CHECKS, OF_DEFENSES)
def test_a_defense_computes_on_its_client_s_device(name: str, check: Check, device: str) -> None:
    assert_kept(check, DefenseTrial(name, device=device))


# The deepest two take most of a minute here; their own device's checks run in test_conformance.
# Second derivatives of the others that are deep take half a minute: they are of the nightly run.
TOO_DEEP = ALIKE | {"efficientnet_lite0", "mobilefacenet"}
DEEP = {"mobilenet_v3_small", "resnet18", "vit_small"}


def of_models() -> Iterator[ParameterSet]:
    known = {check.name: check for check in MODEL_CHECKS}
    for name in (n for n in MODELS.own() if n not in TOO_DEEP):
        for check in OF_MODELS:
            long = name in DEEP and check == "can be differentiated twice"
            yield pytest.param(name, known[check], marks=[pytest.mark.nightly] if long else ())


@pytest.mark.parametrize(("name", "check"), list(of_models()), ids=str)
def test_a_model_computes_on_its_device(name: str, check: Check, device: str) -> None:
    assert_kept(check, ModelTrial(name, device=device))


@each(ATTACKS.own(), ATTACK_CHECKS, OF_ATTACKS)
def test_an_attack_computes_on_its_server_s_device(name: str, check: Check, device: str) -> None:
    assert_kept(check, AttackTrial(name, device=device))


MISTAKES: dict[str, Callable[[Tensor], object]] = {
    "an operation": lambda ours: ours + torch.ones(2),
    "in place": lambda ours: torch.ones(2).add_(ours),
    "a number of the device beside the CPU's": lambda ours: torch.ones(2) * ours.sum(),
    "concatenation": lambda ours: torch.cat([ours, torch.ones(2)]),
    "a number in a list": lambda ours: torch.stack([ours.sum(), torch.tensor(1.0)]),
    "an index": lambda ours: torch.ones(2)[ours.long()],
    "a matrix product": lambda ours: ours @ torch.ones(2, 2),
    "in vmap": lambda ours: torch.func.vmap(lambda x: x * torch.ones(2))(ours[None]),
    "numpy": lambda ours: ours.numpy(),
    "a generator": lambda ours: torch.rand(2, generator=torch.Generator(), device=ours.device),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_a_gpu_refuses_is_refused(mistake: str, device: str) -> None:
    ours = torch.ones(2, device=device)
    with pytest.raises((RuntimeError, TypeError), match=r"device|numpy"):
        MISTAKES[mistake](ours)


def test_what_a_gpu_computes_is_computed(device: str) -> None:
    ours = torch.tensor([1.0, 2.0], device=device, requires_grad=True)
    assert ours.device.type == DEVICE
    moved = (ours * torch.tensor(2.0) + 1).square()
    (slope,) = torch.autograd.grad(moved.sum(), ours)
    assert slope.device.type == DEVICE
    assert slope.tolist() == [12.0, 20.0]
    assert ours[torch.tensor([1])].item() == 2.0
    assert ours.detach()[np.array([1, 0])].cpu().tolist() == [2.0, 1.0]
    assert ours.new_tensor([3.0]).cpu().numpy() == 3.0


def test_a_defense_that_forgets_the_device_is_found(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forgetful(self: GaussianNoise, compute: Callable[[Client], Update]) -> object:
        def protected(client: Client) -> Update:
            return {n: v + torch.randn(v.shape) for n, v in gradient(client).items()}

        return protected

    monkeypatch.setattr(GaussianNoise, "protect", forgetful)
    trial = DefenseTrial("gaussian", device=device)
    with pytest.raises(RuntimeError, match="same device"):
        trial.update(trial.client())
