"""Victims of federated averaging: they send changes of weights, and every server knows so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import pytest

from clients import assert_close, assert_equal, client, defense
from leakbench.attacks.feature import FeatureReconstruction
from leakbench.base.errors import UsageError
from leakbench.evaluation.exchange import Exchange
from leakbench.evaluation.measuring import infer, victim_batches
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.federation.client import Client, gradient
from leakbench.federation.defense import Defense
from leakbench.federation.defenses.local_steps import LocalSteps
from leakbench.federation.protocol import under_protocol
from leakbench.threat.knowledge import Knowledge
from spying import Spy

STEPS = LocalSteps(epochs=2, batch=2)


@dataclass(frozen=True, kw_only=True)
class Spying(Spy):
    """Sees the update, and the defense if it is granted."""

    required_knowledge: ClassVar[Knowledge] = Knowledge.MODEL | Knowledge.UPDATE
    optional_knowledge: ClassVar[Knowledge] = Knowledge.DEFENSE


@pytest.fixture(scope="module")
def context(small_setup: Setup) -> EvaluationContext:
    return prepare(
        small_setup.model_copy(update={"local_epochs": 2, "local_batch": 2, "rounds": 1}),
        None,
        "cpu",
        lambda message: None,
    )


def resolved(context: EvaluationContext, **fields: Any) -> ResolvedCell:
    cell = Cell.model_validate(
        context.setup.model_dump() | {"attack": "prior", "batch_size": 4, "individuals": 8} | fields
    )
    return ResolvedCell.of(cell)


def spied(
    context: EvaluationContext, grant: str = "update", **fields: Any
) -> tuple[Spying, list[float]]:
    of = resolved(context, **fields)
    knowledge = Knowledge.parse(["model", "update", grant])
    exchange = replace(Exchange.of(of), knowledge=knowledge)
    spy = Spying()
    answers = infer(spy, victim_batches(context, 4, 8), exchange, context, lambda share: None)
    return spy, answers.changes


def test_a_victim_sends_the_change_of_weights_of_its_local_steps(
    context: EvaluationContext,
) -> None:
    spy, changes = spied(context)
    truth = victim_batches(context, 4, 8)[0]
    assert context.server.model is not None
    exchange = Exchange.of(resolved(context))
    by = Client(
        model=context.server.model,
        images=truth.images,
        labels=truth.labels,
        learning_rate=0.1,
        generator=exchange.defense_generator(truth, 0),
    )
    assert spy.seen[0].update is not None
    assert_equal(dict(spy.seen[0].update), STEPS.protect(gradient)(by))
    # It is what the protocol says: nothing is defended.
    assert changes == []


@pytest.mark.parametrize("grant", ["update", "defense"])
def test_every_server_knows_the_protocol_and_the_defense_if_it_is_granted(
    context: EvaluationContext, grant: str
) -> None:
    spy, changes = spied(context, grant, defense="gaussian", defense_parameters={"sigma": 0.01})
    (server,) = spy.servers
    assert server.defense is not None
    names = [part.name for part in getattr(server.defense, "parts", [server.defense])]
    assert names == (["local_steps"] if grant == "update" else ["local_steps", "gaussian"])
    # Noise alone, and not the local steps, is the defense's distortion.
    sizes = [update for each in spy.seen for update in (each.update or {}).values()]
    noise = 0.01 * sum(value.numel() for value in sizes) ** 0.5
    norm = sum(float(value.square().sum()) for value in sizes) ** 0.5
    assert 0 < changes[0] < 3 * noise / norm
    synchronous = replace(context.server, protocol=None)
    assert synchronous.defense is None


def test_without_federated_averaging_a_server_is_told_nothing(small_setup: Setup) -> None:
    plain = prepare(small_setup, None, "cpu", lambda message: None)
    spy, changes = spied(plain)
    assert (spy.servers[0].defense, changes) == (None, [])


@pytest.mark.parametrize(
    ("name", "parameters", "order"),
    [
        ("none", {}, ["local_steps"]),
        ("gaussian", {"sigma": 0.1}, ["local_steps", "gaussian"]),
        ("dp_sgd", {"clip": 1.0, "noise": 0.1}, ["dp_sgd", "local_steps"]),
        ("secure_aggregation", {"of": 2}, ["local_steps", "secure_aggregation"]),
    ],
)
def test_local_steps_are_placed_by_what_the_defense_changes(
    name: str, parameters: dict[str, Any], order: list[str]
) -> None:
    found = under_protocol(STEPS, defense(name, **parameters))
    parts: Sequence[Defense] = getattr(found, "parts", [found])
    assert [part.name for part in parts] == order
    assert under_protocol(None, found) is found


def test_a_defense_of_several_parts_has_the_steps_inside() -> None:
    several = defense(
        "composed",
        defenses=[
            {"name": "dp_sgd", "clip": 1.0, "noise": 0.0},
            {"name": "sparsify", "fraction": 0.5},
        ],
    )
    found = under_protocol(STEPS, several)
    by_hand = defense("sparsify", fraction=0.5).protect(
        STEPS.protect(defense("dp_sgd", clip=1.0, noise=0.0).protect(gradient))
    )
    assert_close(found.protect(gradient)(client(4)), by_hand(client(4)))


def test_a_defense_that_takes_local_steps_is_refused(context: EvaluationContext) -> None:
    with pytest.raises(UsageError, match="'local_steps' cannot be combined with `local_epochs`"):
        resolved(context, defense="local_steps", defense_parameters={"epochs": 2, "batch": 2})


def test_local_batches_without_local_epochs_are_refused(small_setup: Setup) -> None:
    with pytest.raises(ValueError, match="local_batch is given but local_epochs is 0"):
        Setup.model_validate(small_setup.model_dump() | {"local_batch": 4})


def test_matching_simulates_the_steps_that_it_was_not_granted(context: EvaluationContext) -> None:
    of = resolved(context)
    attack = FeatureReconstruction(budget=2)
    knowledge = Knowledge.parse(["model", "update", "auxiliary", "labels"])
    exchange = replace(Exchange.of(of), knowledge=knowledge)
    server = exchange.server(context.server, "off")
    assert isinstance(server.defense, LocalSteps)
    truths = victim_batches(context, 4, 4)
    answers = infer(attack, truths, exchange, context, lambda share: None, "off")
    assert [len(result.scores["gender"]) for result in answers.results] == [4]
