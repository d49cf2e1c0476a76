"""Facts about victims that are attacked side by side."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from leakbench.attacks.matching import memory
from leakbench.attacks.matching.distance import cosine_distance, squared_error
from leakbench.attacks.matching.engine import match_gradients
from leakbench.attacks.matching.method import (
    CENTRED,
    Iterate,
    Method,
    Reconstruction,
    Victim,
)
from leakbench.attacks.matching.optimisers import LBFGS, Adam
from leakbench.attacks.matching.schedules import cosine_decay
from leakbench.base.choices import Mode
from leakbench.federation.batch_norm import batch_statistics, in_mode
from leakbench.federation.client import client_update
from leakbench.federation.models.lenet import LeNet
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import SharedModel
from matching_runs import (
    CLASSES,
    IMAGE,
    Walk,
    built,
    draw,
    run_method,
    run_script,
    script,
    scripted,
    uniform,
)


def overflowing_at_first(victim: Victim, generator: torch.Generator) -> Tensor:
    """Half of the starts overflow."""
    images = uniform(victim, generator)
    return images / 0 if images[0, 0, 0, 0] < 0.5 else images


def victims_of(model: SharedModel, labels: bool) -> list[Victim]:
    truths = [(draw(2, *IMAGE, seed=n), torch.tensor([n % CLASSES, 1])) for n in range(4)]
    return [
        Victim(client_update(model, *truth), truth[1] if labels else None, 2, seed)
        for seed, truth in enumerate(truths)
    ]


ADAM = Method(
    cosine_distance,
    Adam(0.05),
    overflowing_at_first,
    steps=16,
    runs=2,
    schedule=cosine_decay,
    noise=0.01,
    pixels=CENTRED,
)


L_BFGS = Method(
    squared_error,
    LBFGS(history=4),
    overflowing_at_first,
    steps=24,
    projected=0,
    patience=3,
)


def assert_same(a: Reconstruction, b: Reconstruction) -> None:
    for part in fields(Reconstruction):
        left, right = getattr(a, part.name), getattr(b, part.name)
        torch.testing.assert_close(left, right, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "labels", "tolerance"),
    [(ADAM, True, 0.0042), (ADAM, False, 0.06), (L_BFGS, True, 0.19), (L_BFGS, False, 0.3)],
    ids=["Adam, labels known", "Adam, joint", "L-BFGS, labels known", "L-BFGS, joint"],
)
def test_a_victim_s_answer_is_the_same_alone_and_among_others(
    method: Method, labels: bool, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of these end early and some start afresh, which the others must not notice."""
    method = replace(method, tolerance=tolerance)
    model = built(LeNet())
    victims = victims_of(model, labels)
    together = run_method(method, *victims, model=model)
    assert len({answer.steps for answer in together}) > 1
    assert len({answer.restarts for answer in together}) > 1
    for victim, answer in zip(victims, together, strict=True):
        assert_same(run_method(method, victim, model=model)[0], answer)
    for a, b in zip(
        run_method(method, *reversed(victims), model=model), reversed(together), strict=True
    ):
        assert_same(a, b)
    monkeypatch.setattr(memory, "CACHED", 1)
    for a, b in zip(run_method(method, *victims, model=model), together, strict=True):
        assert_same(a, b)


def test_victims_of_one_seed_start_alike_and_those_of_others_do_not() -> None:
    _, log = run_script(script(2, 1, seed=4), script(2, 1, seed=4), script(2, 1, seed=5))
    same, as_well, other = log[0].variables
    assert torch.equal(same, as_well)
    assert (same != other).all()


def test_no_victims_have_no_answers() -> None:
    shares: list[float] = []
    method = Method(scripted(), Walk(), uniform, steps=3)
    assert match_gradients(built(LeNet()), method, [], CLASSES, shares.append) == []
    assert shares == []


@pytest.mark.parametrize("cached", [memory.CACHED, 1], ids=["together", "in turn"])
def test_progress_only_grows_and_ends_at_one(cached: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CACHED", cached)
    model, shares = built(LeNet()), []
    match_gradients(model, ADAM, victims_of(model, True), CLASSES, shares.append)
    assert all(a <= b for a, b in pairwise(shares))
    assert 0 < shares[0] < 0.1
    assert shares[-1] == 1
    assert len(shares) >= ADAM.steps - 1


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_model_and_victims_are_left_as_they_were(mode: Mode) -> None:
    shared = built(SmallCNN(width=4, batch_norm=True))
    model = in_mode(shared, mode)

    def prior(iterate: Iterate) -> Tensor:
        return sum(
            (iterate.statistics[layer][0] - mean).square().sum(1)
            for layer, (mean, _) in iterate.target_statistics.items()
        )

    victims = [
        replace(victim, statistics=batch_statistics(model, draw(2, *IMAGE, seed=seed)))
        for seed, victim in enumerate(victims_of(model, True))
    ]

    def everything() -> list[Tensor]:
        given = [t for v in victims for t in (*v.update.values(), v.labels)]
        given += [t for v in victims for pair in v.statistics.values() for t in pair]
        return [*shared.state_dict().values(), *model.state_dict().values(), *given]

    before = [tensor.clone() for tensor in everything()]
    modes = [module.training for module in model.modules()]
    run_method(replace(ADAM, prior=prior), *victims, model=model)
    assert all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))
    assert modes == [module.training for module in model.modules()]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
