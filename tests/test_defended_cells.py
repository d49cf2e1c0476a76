"""Cells under a defense, end to end: what is scored, what the defense changes, what it costs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from clients import flat
from leakbench.base.registry import DEFENSES
from leakbench.evaluation.exchange import Exchange
from leakbench.evaluation.measuring import infer, victim_batches
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import UTILITY_TRAININGS, Cell, Setup, utility_setups
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.records.record import DefenseMetrics, Metrics
from leakbench.threat.attack import Attack, AttackResult, Progress
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server
from measuring import measured
from suites import small_suite

Run = Callable[..., tuple[int, str, str]]


def metrics_of(setup: Setup, attack: str, **fields: Any) -> tuple[Metrics, DefenseMetrics | None]:
    """What a cell measured: without, and of, the defense."""
    parameters = {"budget": 8} if attack == "feature" else {}
    fields = {"batch_size": 2, "individuals": 16, **fields}
    if attack == "oracle":
        fields["grant"] = ("model", "auxiliary", "features")
    metrics = measured(setup, None, attack, parameters, **fields).metrics
    assert metrics is not None
    return metrics.model_copy(update={"defense": None}), metrics.defense


def mean_accuracy(setup: Setup) -> float:
    """The main task's, over the trainings that measure utility."""
    contexts = (prepare(each, None, "cpu", lambda message: None) for each in utility_setups(setup))
    return float(np.mean([context.main_task["accuracy"] for context in contexts]))


@pytest.mark.parametrize(
    ("defense", "parameters"),
    [
        ("gaussian", {"sigma": 0.0}),
        ("sparsify", {"fraction": 1.0}),
        ("local_steps", {}),
        ("secure_aggregation", {"of": 1}),
    ],
)
def test_an_undefended_cell_through_the_defense_path_is_the_plain_one_bit_for_bit(
    small_setup: Setup, defense: str, parameters: dict[str, Any]
) -> None:
    plain, nothing = metrics_of(small_setup, "feature")
    assert nothing is None
    found, cost = metrics_of(small_setup, "feature", defense=defense, defense_parameters=parameters)
    assert found == plain
    assert cost is not None
    assert cost.distortion.value == 0
    assert cost.utility.value == pytest.approx(mean_accuracy(small_setup))
    assert cost.utility_lost.value == 0
    assert cost.epsilon is None


@dataclass(frozen=True, kw_only=True)
class Watching(Attack):
    """Keeps what it observes."""

    name = "watching"
    title = "Watching"
    reference = "none"
    seen: list[Observation] = field(default_factory=list)

    @property
    def required_knowledge(self) -> Knowledge:
        return Knowledge.UPDATE

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        self.seen.extend(observations)
        scores = {name: torch.tensor(0.5) for name in server.properties}
        return [
            AttackResult(scores={name: half.repeat(o.batch_size) for name, half in scores.items()})
            for o in observations
        ]


def observed(context: EvaluationContext, **fields: Any) -> list[Observation]:
    cell = Cell.model_validate(
        context.setup.model_dump() | {"attack": "watching", "individuals": 16, **fields}
    )
    watching = Watching()
    resolved = ResolvedCell(cell, watching, cell.spec("defense").build(DEFENSES))
    truths = victim_batches(context, resolved.individuals_in_update, cell.individuals)
    infer(watching, truths, Exchange.of(resolved), context, lambda share: None)
    return watching.seen


def test_a_server_sees_several_clients_batches_as_one(small_setup: Setup) -> None:
    context = prepare(small_setup, None, "cpu", lambda message: None)
    together = observed(
        context, batch_size=2, defense="secure_aggregation", defense_parameters={"of": 4}
    )
    plain = observed(context, batch_size=8)
    assert [o.batch_size for o in together] == [8, 8]
    for aggregated, whole in zip(together, plain, strict=True):
        assert aggregated.update is not None
        assert whole.update is not None
        torch.testing.assert_close(
            flat(dict(aggregated.update)), flat(dict(whole.update)), rtol=1e-4, atol=1e-6
        )


def test_individuals_of_clients_aggregated_securely_are_scored_together(small_setup: Setup) -> None:
    four, cost = metrics_of(
        small_setup, "oracle", defense="secure_aggregation", defense_parameters={"of": 4}
    )
    assert four == metrics_of(small_setup, "oracle", batch_size=8)[0]
    assert four != metrics_of(small_setup, "oracle", batch_size=2)[0]
    assert cost is not None
    assert cost.distortion.value == pytest.approx(0, abs=1e-5)
    assert cost.utility.value == pytest.approx(mean_accuracy(small_setup))


def test_the_distortion_of_noise_is_its_norm_over_the_gradient_s(small_setup: Setup) -> None:
    _, cost = metrics_of(
        small_setup, "oracle", defense="gaussian", defense_parameters={"sigma": 0.01}
    )
    context = prepare(small_setup, None, "cpu", lambda message: None)
    updates = [
        flat(dict(o.update)) for o in observed(context, batch_size=2) if o.update is not None
    ]
    ratios = [0.01 * len(update) ** 0.5 / update.norm().item() for update in updates]
    assert cost is not None
    assert cost.distortion.value == pytest.approx(sum(ratios) / len(ratios), rel=0.02)


def test_utility_is_of_a_model_that_was_trained_under_the_defense(small_setup: Setup) -> None:
    """Clipped to nothing, it stays the untrained model."""
    setup = small_setup.model_copy(update={"rounds": 30, "main_task": "dark_hair"})
    clipped = {"defense": "clip", "defense_parameters": {"norm": 1e-12}}
    _, cost = metrics_of(setup, "oracle", **clipped)
    assert cost is not None
    accuracy = mean_accuracy(setup.model_copy(update={"rounds": 0}))
    lost = mean_accuracy(setup) - accuracy
    assert cost.utility.value == pytest.approx(accuracy)
    assert lost != 0
    assert cost.utility_lost.value == pytest.approx(lost, abs=1e-6)
    assert cost.utility_lost.low is not None
    assert cost.utility_lost.high is not None
    assert cost.utility_lost.low < lost < cost.utility_lost.high
    assert cost.distortion.value == pytest.approx(1)


def test_a_private_training_has_its_epsilon(small_setup: Setup) -> None:
    accountants = pytest.importorskip(
        "opacus.accountants", reason="the extra `opacus` is not installed"
    )
    private = {"defense": "dp_sgd", "defense_parameters": {"clip": 1.0, "noise": 1.0}}
    _, cost = metrics_of(small_setup, "oracle", **private)
    context = prepare(small_setup, None, "cpu", lambda message: None)
    smallest = min(len(rows) for rows in context.split.clients)
    accountant = accountants.RDPAccountant()
    for _ in range(small_setup.rounds):
        accountant.step(noise_multiplier=1.0, sample_rate=small_setup.client_batch / smallest)
    assert cost is not None
    assert cost.delta == pytest.approx(1 / smallest)
    assert cost.epsilon == pytest.approx(accountant.get_epsilon(1 / smallest))


GAUSSIAN = '{ name = "gaussian", sigma = 0.1 }'
PRIVATE = '{ name = "dp_sgd", clip = 1.0, noise = 1.0 }'


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["defense=gaussian", "defense.sigma=-1"], r"'gaussian': sigma: .*\(got -1\)"),
        (["defense=sparsify", "defense.fraction=0"], r"'sparsify': fraction: .*\(got 0\)"),
        (["defense=sparsify", "defense.fraction=1.5"], r"'sparsify': fraction: .*\(got 1\.5\)"),
        (["defense=quantise", "defense.bits=0"], r"'quantise': bits: .*\(got 0\)"),
        (["defense=gaussian"], r"defense 'gaussian': key 'sigma' is missing"),
        (
            ["defense=composed", f"defense.defenses=[{GAUSSIAN}, {PRIVATE}]"],
            r"'dp_sgd' cannot come after 'gaussian': it changes how a gradient is computed, so put",
        ),
        (
            ["defense=secure_aggregation", "defense.of=3"],
            r"individuals cannot be divided into batches of 3",
        ),
    ],
)
def test_a_defense_that_does_not_fit_is_one_sentence_and_code_2(
    run: Run, settings: list[str], message: str
) -> None:
    code, out, err = run("run", "quick", *(f"--set={setting}" for setting in settings))
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"leakbench: .*{message}.*\n", err)


SUITE = small_suite(
    "[attack.prior]",
    "[[group]]",
    'title = "Private"',
    'layout = "table2"',
    'cell = { defense = "dp_sgd", defense_parameters = { clip = 1.0, noise = 1.0 } }',
    dataset_parameters="{ individuals = 200 }",
    model_parameters="{ width = 4, batch_norm = true }",
    rounds="1",
    individuals="4",
    batch_size="2",
)


def test_batch_norm_under_dp_sgd_is_one_sentence_and_code_2(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "norm.toml"
    path.write_text(SUITE)
    code, out, err = run("run", str(path), "--device", "cpu", "--workers", "1")
    assert (code, out) == (2, "")
    # Printed when a training fails, and at the end for the cells that need it.
    *trainings, cells = (line for line in err.splitlines() if line.startswith("failed: "))
    assert len(trainings) == UTILITY_TRAININGS
    assert all("under dp_sgd" in training for training in trainings)
    for sentence in (*trainings, cells):
        assert "defense 'dp_sgd' needs a model without BatchNorm" in sentence
    assert "Traceback" not in err


def test_list_and_show_describe_a_defense(run: Run) -> None:
    _, out, _ = run("list", "defenses")
    rows = {line.split()[0]: line for line in out.splitlines()[2:]}
    assert re.match(r"sparsify +update +fraction choice scope +Shokri", rows["sparsify"])
    assert re.match(r"dp_sgd +gradient +clip noise +Abadi", rows["dp_sgd"])
    code, out, _ = run("show", "dp_sgd")
    assert code == 0
    assert "Clips each individual's gradient" in out
    assert re.search(r"^noise +float, ge=0 +\(required\)$", out, re.M)
