"""Clients' randomness: an adversary who knows every seed cannot draw it again."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest
import torch

from leakbench.base.seeds import generator_for, tensor_digest
from leakbench.evaluation.exchange import Exchange
from leakbench.evaluation.measuring import infer, victim_batches
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Setup
from leakbench.federation.client import Client, gradient
from leakbench.federation.defenses.noise import GaussianNoise
from leakbench.threat.candidates import candidates_of
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import GroundTruth, Observation
from spying import Spy


@dataclass(frozen=True, kw_only=True)
class Spying(Spy):
    """Sees all that depends on random numbers."""

    required_knowledge: ClassVar[Knowledge] = (
        Knowledge.MODEL | Knowledge.UPDATE | Knowledge.LABELS | Knowledge.CANDIDATES
    )


@pytest.fixture(scope="module")
def context(small_setup: Setup) -> EvaluationContext:
    return prepare(small_setup, None, "cpu", lambda message: None)


@pytest.fixture(scope="module")
def exchange() -> Exchange:
    return Exchange(
        knowledge=Spying.required_knowledge,
        batch_size=1,
        mode="eval",
        learning_rate=0.1,
        defense=GaussianNoise(sigma=0.1),
        precision="float32",
        seed=5,
        clients_seed=5,
    )


def noise_sent(context: EvaluationContext, truth: GroundTruth, seen: Observation) -> torch.Tensor:
    assert context.server.model is not None and seen.update is not None
    client = Client(context.server.model, truth.images, truth.labels, 0.1, torch.Generator())
    name, plain = next(iter(gradient(client).items()))
    return (seen.update[name] - plain) / 0.1


def test_the_noise_cannot_be_drawn_again_from_what_is_seen(
    context: EvaluationContext, exchange: Exchange
) -> None:
    truths = victim_batches(context, 1, 8)
    spy = Spying()
    infer(spy, truths, exchange, context, lambda share: None)
    for number, (truth, seen) in enumerate(zip(truths, spy.seen, strict=True)):
        noise = noise_sent(context, truth, seen)
        assert 0.8 < noise.std() < 1.2

        def drawn(generator: torch.Generator, like: torch.Tensor = noise) -> torch.Tensor:
            return torch.randn(like.shape, generator=generator)

        # Who holds the truth can draw it again; so a success of the others would be seen.
        assert torch.allclose(noise, drawn(exchange.defense_generator(truth, number)), atol=1e-4)
        assert seen.candidates is not None and seen.labels is not None
        # All that the harness knows, but for the secret: a candidate's image, label and identity.
        guesses = [
            replace(truth, images=seen.candidates[i : i + 1], labels=seen.labels, secret="")
            for i in range(len(seen.candidates))
        ]
        known: list[list[Any]] = [
            [],
            [seen.seed],
            *([tensor_digest(image)] for image in seen.candidates),
            *([guess.digest()] for guess in guesses),
        ]
        for parts in known:
            for seed in (exchange.seed, seen.seed):
                again = drawn(generator_for("defense", seed, 1, number, *parts))
                assert not torch.allclose(noise, again, atol=0.1)


def test_candidates_cannot_be_drawn_again_from_the_seeds(
    context: EvaluationContext, exchange: Exchange
) -> None:
    truths = victim_batches(context, 4, 32)
    spy = Spying()
    answers = infer(spy, truths, replace(exchange, batch_size=4), context, lambda share: None)
    assert answers.candidates is not None
    order = torch.cat([each.members for each in answers.candidates])
    from_seeds = generator_for("candidates", exchange.seed, 4)
    unsecret = [replace(each, secret="") for each in truths]
    from_images = generator_for("candidates", exchange.seed, 4, [t.digest() for t in unsecret])
    for generator in (from_seeds, from_images):
        again = candidates_of(truths, generator)
        assert not torch.equal(torch.cat([each.members for each in again]), order)


@pytest.mark.parametrize("field", ["images", "labels", "identities", "secret"])
def test_the_randomness_depends_on_all_that_only_the_truth_holds(
    context: EvaluationContext, exchange: Exchange, field: str
) -> None:
    truth = victim_batches(context, 4, 8)[0]
    assert len(truth.secret) == 64
    other: Any = "" if field == "secret" else getattr(truth, field).flip(0)
    draws = [
        torch.rand(8, generator=exchange.defense_generator(each, 0))
        for each in (truth, truth, replace(truth, **{field: other}))
    ]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
