"""What every registered attack and control must do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from preparing import prepared_for
from torch import Tensor

from bench.candidates import candidates_of
from bench.cells import Setup
from bench.deployment import serve
from bench.errors import UsageError
from bench.federation import client_update
from bench.measure import granted, victim_batches
from bench.plugins import build
from bench.preparation import Prepared, prepare
from bench.registry import ATTACKS
from bench.threat import Attack, Inference, Knowledge, Observation, Server, Truth, observe
from bench.validation import check_inferences

SHORT = {
    "budget": 8,
    "batches": 20,
    "epochs": 1,
    "width": 4,
    "iterations": 8,
    "samples": 500,
}
"""Parameters that make an attack quick, for those that have them."""

Fitting = Callable[[str], Prepared]
"""An attack's name → a setup in which it can be run."""

EVERY_ATTACK = pytest.mark.parametrize("name", ATTACKS.names())

DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    ),
]


@pytest.fixture(scope="module", params=DEVICES)
def prepared(request: pytest.FixtureRequest, small_setup: Setup) -> Prepared:
    return prepare(small_setup, None, request.param, lambda message: None)


@pytest.fixture(scope="module", params=DEVICES)
def fitting(request: pytest.FixtureRequest, small_setup: Setup) -> Fitting:
    return lambda attack: prepared_for(attack, small_setup, request.param)


def short(name: str) -> Attack:
    known = {field.name for field in fields(ATTACKS.get(name))}
    return build(ATTACKS, name, {k: v for k, v in SHORT.items() if k in known})


def batch_for(name: str) -> int:
    return min(3, ATTACKS.get(name).largest_batch or 3)


def observed(
    prepared: Prepared, attack: Attack, batch_size: int
) -> tuple[Server, list[Observation]]:
    assert prepared.server.model is not None
    truths = victim_batches(prepared, batch_size, individuals=2 * batch_size)
    server = granted(prepared.server, attack.needs)
    outputs = served(attack, server, truths)
    observations = [
        observe(
            truth,
            client_update(prepared.server.model, truth.images, truth.labels),
            attack.needs,
            seed=number,
            outputs=outputs[number],
            candidates=shown(truths, number),
        )
        for number, truth in enumerate(truths)
    ]
    return server, observations


def served(attack: Attack, server: Server, truths: list[Truth]) -> list[dict[str, Tensor]]:
    """What the attack's deployed models answer; nothing where it needs no outputs."""
    if Knowledge.OUTPUTS not in attack.needs:
        return [{} for _ in truths]
    return serve(attack, server, [truth.images for truth in truths], lambda share: None)


def shown(truths: list[Truth], number: int) -> Tensor:
    """Candidates for a batch."""
    return candidates_of(truths, number, torch.Generator().manual_seed(number)).images


def infer(attack: Attack, server: Server, observations: list[Observation]) -> list[Inference]:
    return attack.infer(server, observations, lambda share: None)


def assert_same(a: Inference, b: Inference, **tolerance: float) -> None:
    for field in fields(Inference):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if isinstance(left, Tensor):
            torch.testing.assert_close(left, right, **tolerance)
        elif isinstance(left, dict):
            for key in left:
                torch.testing.assert_close(left[key], right[key], **tolerance)
        else:
            assert left == right or left == pytest.approx(right, rel=1e-3)


@EVERY_ATTACK
@pytest.mark.parametrize("batch_size", [1, 3])
def test_answers_are_well_formed(name: str, fitting: Fitting, batch_size: int) -> None:
    attack, prepared = short(name), fitting(name)
    if batch_size > (attack.largest_batch or batch_size):
        pytest.skip(f"{name} is defined up to B = {attack.largest_batch}")
    server, observations = observed(prepared, attack, batch_size)
    shares: list[float] = []
    inferences = attack.infer(server, observations, shares.append)
    check_inferences(name, inferences, observations, server)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)


@EVERY_ATTACK
def test_the_same_seed_gives_the_same_answer(name: str, fitting: Fitting) -> None:
    attack, prepared = short(name), fitting(name)
    server, observations = observed(prepared, attack, batch_for(name))
    for a, b in zip(
        infer(attack, server, observations), infer(attack, server, observations), strict=True
    ):
        assert_same(a, b)


@EVERY_ATTACK
def test_an_answer_depends_on_its_own_observation_alone(name: str, fitting: Fitting) -> None:
    attack, prepared = short(name), fitting(name)
    server, observations = observed(prepared, attack, batch_for(name))
    together = infer(attack, server, observations)
    alone = infer(attack, server, observations[1:])
    # Several victims at once are summed in another order, and every step multiplies the rounding.
    assert_same(together[1], alone[0], rtol=1e-3, atol=1e-4)


@EVERY_ATTACK
def test_what_is_granted_is_left_as_it_was(name: str, fitting: Fitting) -> None:
    attack, prepared = short(name), fitting(name)
    server, observations = observed(prepared, attack, batch_for(name))
    before = [t.clone() for t in tensors_of([server, observations])]
    infer(attack, server, observations)
    after = tensors_of([server, observations])
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@EVERY_ATTACK
def test_more_knowledge_than_needed_changes_nothing(name: str, fitting: Fitting) -> None:
    """What an attack does not declare, it does not use."""
    attack, prepared = short(name), fitting(name)
    server, observations = observed(prepared, attack, batch_for(name))
    assert prepared.server.model is not None
    truths = victim_batches(prepared, batch_for(name), individuals=2 * batch_for(name))
    everything = ~type(attack.needs).NOTHING
    generous = [
        observe(
            truth,
            client_update(prepared.server.model, truth.images, truth.labels),
            everything,
            o.seed,
            outputs=outputs,
            candidates=shown(truths, number),
        )
        for number, (truth, o, outputs) in enumerate(
            zip(truths, observations, served(attack, prepared.server, truths), strict=True)
        )
    ]
    for a, b in zip(
        infer(attack, server, observations), infer(attack, prepared.server, generous), strict=True
    ):
        assert_same(a, b)


@EVERY_ATTACK
def test_parameters_are_frozen_and_documented(name: str) -> None:
    plugin = ATTACKS.get(name)
    assert is_dataclass(plugin)
    assert plugin.__dataclass_params__.frozen
    assert plugin.title
    assert plugin.reference
    for field in fields(plugin):
        assert any(f"{field.name}:" in (base.__doc__ or "") for base in plugin.__mro__)


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors in a tree of dataclasses, lists, mappings and modules, in a fixed order."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, torch.nn.Module):
        return list(value.state_dict().values())
    if is_dataclass(value):
        return [t for field in fields(value) for t in tensors_of(getattr(value, field.name))]
    if isinstance(value, dict):
        return [t for part in value.values() for t in tensors_of(part)]
    if isinstance(value, list | tuple):
        return [t for part in value for t in tensors_of(part)]
    return []


GOOD = Inference(scores={"gender": torch.full((2,), 0.3), "glasses": torch.full((2,), 0.7)})


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        ([], "returned 0 inferences for 1"),
        (
            [replace(GOOD, scores={"gender": torch.full((2,), 0.5)})],
            "no scores for property 'glasses'",
        ),
        (
            [replace(GOOD, scores={**GOOD.scores, "gender": torch.rand(3)})],
            r"scores\['gender'\] of shape \(3,\), expected \(2,\)",
        ),
        (
            [replace(GOOD, scores={**GOOD.scores, "gender": torch.tensor([0.5, torch.nan])})],
            "NaN or infinity in scores",
        ),
        (
            [replace(GOOD, scores={**GOOD.scores, "gender": torch.tensor([0.5, 1.5])})],
            r"outside \[0, 1\]",
        ),
        ([replace(GOOD, features=torch.rand(2, 5))], r"features of shape \(2, 5\)"),
        ([replace(GOOD, images=torch.rand(2, 3, 8, 8))], "images of shape"),
        ([replace(GOOD, images=torch.full((2, 3, 32, 32), torch.inf))], "NaN or infinity"),
        ([replace(GOOD, labels=torch.zeros(1))], "labels of shape"),
        ([replace(GOOD, labels=torch.zeros(2))], "labels that are no classes"),
        ([replace(GOOD, labels=torch.tensor([0, 99]))], "labels that are no classes"),
        ([None], "returned None, not an `Inference`"),
        ([replace(GOOD, scores={**GOOD.scores, "gender": [0.5, 0.5]})], "as list; return a tensor"),
        (
            [replace(GOOD, scores={**GOOD.scores, "gender": torch.tensor([0.1, 0.9])})],
            "different scores.*no features",
        ),
    ],
)
def test_a_malformed_answer_is_refused(
    prepared: Prepared, answer: list[Inference], named: str
) -> None:
    with pytest.raises(UsageError, match=f"attack 'stub' .*{named}"):
        check_inferences("stub", answer, [Observation(batch_size=2, seed=0)], prepared.server)
