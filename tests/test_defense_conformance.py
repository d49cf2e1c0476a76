"""What every registered defense must do, alone and under every registered attack."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

import pytest
import torch
from clients import SAMPLES, client
from preparing import prepared_for
from test_conformance import DEVICES, Fitting, batch_for, short

from bench.cells import Cell, Setup
from bench.client import gradient
from bench.defense import Defense, individuals_in_update
from bench.measure import infer, victim_batches
from bench.plugins import build, parameters_of
from bench.preparation import Prepared, prepare, trained_under
from bench.registry import ATTACKS, DEFENSES
from bench.threat import Knowledge

STATIC_AND_ADAPTIVE = [
    (attack, adaptive)
    for attack in ATTACKS.names()
    for adaptive in (False, True)
    if not adaptive or Knowledge.DEFENSE in ATTACKS.get(attack).adapts
]

EVERY_DEFENSE = pytest.mark.parametrize("name", DEFENSES.names())


@pytest.fixture(scope="module", params=DEVICES)
def prepared(request: pytest.FixtureRequest, small_setup: Setup) -> Prepared:
    return prepare(small_setup, None, request.param, lambda message: None)


@pytest.fixture(scope="module", params=DEVICES)
def fitting(request: pytest.FixtureRequest, small_setup: Setup) -> Fitting:
    return lambda attack: prepared_for(attack, small_setup, request.param)


def sample(name: str) -> Defense:
    built: Defense = build(DEFENSES, name, SAMPLES[name])
    return built


def test_there_are_sample_parameters_for_every_defense() -> None:
    assert set(SAMPLES) == set(DEFENSES.names())


@EVERY_DEFENSE
def test_the_same_generator_gives_the_same_update(name: str) -> None:
    compute = sample(name).protect(gradient)
    first, again = compute(client(4, seed=5)), compute(client(4, seed=5))
    assert all(torch.equal(first[each], again[each]) for each in first)


@EVERY_DEFENSE
@pytest.mark.parametrize("individuals", [2, 6])
def test_an_update_has_the_parameters_names_shapes_and_types(name: str, individuals: int) -> None:
    of = client(individuals)
    update = sample(name).protect(gradient)(of)
    assert list(update) == [parameter for parameter, _ in of.model.named_parameters()]
    for parameter, weights in of.model.named_parameters():
        value = update[parameter]
        assert value.shape == weights.shape
        assert (value.dtype, value.device) == (weights.dtype, weights.device)
        assert value.isfinite().all()
        assert not value.requires_grad


@EVERY_DEFENSE
def test_an_update_stays_on_the_client_s_device(name: str, prepared: Prepared) -> None:
    assert prepared.server.model is not None
    truth = victim_batches(prepared, 4, 4)[0]
    of = replace(client(4), model=prepared.server.model, images=truth.images, labels=truth.labels)
    update = sample(name).protect(gradient)(of)
    assert {value.device for value in update.values()} == {truth.images.device}


@EVERY_DEFENSE
def test_the_client_s_model_images_and_labels_are_left_as_they_were(name: str) -> None:
    of, before = client(4), client(4)
    sample(name).protect(gradient)(of)
    assert torch.equal(of.images, before.images)
    assert torch.equal(of.labels, before.labels)
    assert not of.model.training
    for ours, theirs in zip(of.model.parameters(), before.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.grad is None
        assert ours.requires_grad == theirs.requires_grad
    assert all(not module._forward_hooks for module in of.model.modules())


@EVERY_DEFENSE
def test_a_model_can_be_trained_under_what_a_client_does_by_itself(
    name: str, prepared: Prepared
) -> None:
    own = sample(name).of_one_client()
    if own is not None:
        assert own.clients == 1
        model = trained_under(own, prepared, lambda what: None)
        assert all(weight.isfinite().all() for weight in model.state_dict().values())


@EVERY_DEFENSE
def test_trust_is_a_factor_for_each_entry(name: str) -> None:
    defense = sample(name)
    update = defense.protect(gradient)(client(4))
    for parameter, factor in defense.trust(update, 4).items():
        torch.broadcast_to(factor, update[parameter].shape)
        assert factor.ndim == update[parameter].ndim
        assert (factor >= 0).all()
        assert (factor <= 1).all()


@EVERY_DEFENSE
@pytest.mark.parametrize("of", ["surrogate", "surrogate_of_individuals"])
def test_a_surrogate_treats_runs_apart_and_can_be_differentiated(name: str, of: str) -> None:
    surrogate = getattr(sample(name), of)
    updates = [gradient(client(individuals)) for individuals in (2, 3)]
    runs = {n: torch.stack([u[n] for u in updates]).requires_grad_() for n in updates[0]}
    together = surrogate(runs)
    for run in range(2):
        alone = surrogate({n: value[run : run + 1] for n, value in runs.items()})
        for parameter, value in alone.items():
            torch.testing.assert_close(value[0], together[parameter][run])
    slopes = torch.autograd.grad(
        sum(value.square().sum() for value in together.values()), list(runs.values())
    )
    assert all(slope.isfinite().all() for slope in slopes)


@EVERY_DEFENSE
def test_parameters_are_frozen_and_documented(name: str) -> None:
    plugin = DEFENSES.get(name)
    assert is_dataclass(plugin)
    assert plugin.__dataclass_params__.frozen
    assert plugin.reference
    for field in fields(plugin):
        assert any(f"{field.name}:" in (base.__doc__ or "") for base in plugin.__mro__)


@EVERY_DEFENSE
@pytest.mark.parametrize(("attack", "adaptive"), STATIC_AND_ADAPTIVE)
def test_every_attack_answers_under_every_defense(
    attack: str, name: str, adaptive: bool, fitting: Fitting
) -> None:
    built, prepared = short(attack), fitting(attack)
    granted = built.needs | Knowledge.DEFENSE if adaptive else built.needs
    cell = Cell.model_validate(
        prepared.setup.model_dump()
        | {
            "attack": attack,
            "attack_parameters": parameters_of(built),
            "batch_size": min(2, batch_for(attack)),
            "grant": granted.names(),
            "defense": name,
            "defense_parameters": parameters_of(sample(name)),
        }
    )
    together = individuals_in_update(cell)
    if together > (built.largest_batch or together):
        pytest.skip(f"{attack} is defined up to B = {built.largest_batch}")
    truths = victim_batches(prepared, together, 2 * together)
    answers = infer(built, truths, cell, prepared, lambda share: None)
    assert len(answers.inferences) == 2
    assert all(len(i.scores["gender"]) == together for i in answers.inferences)
