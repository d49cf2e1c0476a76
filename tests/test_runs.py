"""Several runs of an attack: other trainings of the shared model, other random numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from leakbench.base.registry import ATTACKS
from leakbench.evaluation.exchange import Exchange
from leakbench.evaluation.measuring import (
    infer,
    measure,
    standardisation_of,
    victim_batches,
)
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.evaluation.scoring import Run, ScoringSetup, score
from leakbench.evaluation.swapped import _alike
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics.components import Spread
from leakbench.metrics.estimates import Bootstrap, batches_of
from leakbench.records.possible_values import impossible_values
from leakbench.records.record import Metrics, Record


@pytest.fixture(scope="module")
def setup(small_setup: Setup) -> Setup:
    return small_setup.model_copy(update={"rounds": 4})


def contexts_of(cell: Cell) -> list[EvaluationContext]:
    setups = ResolvedCell.of(cell).setups
    return [prepare(each, None, "cpu", lambda message: None) for each in setups]


def cell_of(setup: Setup, attack: str = "blind", **fields: object) -> Cell:
    chosen = {"batch_size": 2, "individuals": 24, **fields}
    return Cell.model_validate(setup.model_dump() | {"attack": attack, **chosen})


def measured_in_runs(cell: Cell) -> Record:
    return measure(ResolvedCell.of(cell), contexts_of(cell), lambda share: None)


def test_trainings_differ_in_weights_and_in_nothing_else(setup: Setup) -> None:
    first, second = contexts_of(cell_of(setup, trainings=2))
    for one, other in zip(victim_batches(first, 2, 24), victim_batches(second, 2, 24), strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.identities, other.identities)
        assert not torch.equal(one.features, other.features)
    assert np.array_equal(first.split.auxiliary, second.split.auxiliary)


def test_a_mean_over_runs_is_the_mean_of_what_each_run_gives(setup: Setup) -> None:
    cell = cell_of(setup, "feature", trainings=2, attack_seeds=2, attack_parameters={"budget": 6})
    together = measured_in_runs(cell).metrics
    assert together is not None
    resolved = ResolvedCell.of(cell)
    alone: list[Metrics] = []
    for context in contexts_of(cell):
        truths = victim_batches(context, 2, 24)
        for number in range(2):
            exchange = Exchange.of(resolved, context.setup.training, number)
            results = infer(resolved.attack, truths, exchange, context, lambda share: None).results
            run = Run(truths, results, standardisation_of(context))
            alone.append(score([run], ScoringSetup.of([context])))
    assert together.runs == len(alone) == 4
    for name, found in together.properties.items():
        for metric in ("accuracy", "balanced_accuracy", "auc", "brier_score", "count_error"):
            values = [getattr(each.properties[name], metric).value for each in alone]
            assert getattr(found, metric).value == pytest.approx(np.mean(values)), metric
    cosines = [each.feature_cosine.value for each in alone if each.feature_cosine]
    assert together.feature_cosine is not None
    assert len(set(cosines)) == 4
    assert together.feature_cosine.value == pytest.approx(np.mean(cosines))
    spread = Spread.of(np.array(cosines), np.array([0, 0, 1, 1]))
    components = together.feature_cosine.components
    assert components is not None
    assert components.seeds == pytest.approx(np.sqrt(spread.seeds))


def test_a_record_of_several_runs_is_possible_and_reads_back(setup: Setup) -> None:
    record = measured_in_runs(cell_of(setup, trainings=2))
    assert record.metrics is not None
    assert record.metrics.runs == 64
    assert list(impossible_values(record)) == []
    assert Record.model_validate_json(record.model_dump_json()) == record
    components = record.metrics.properties["gender"].balanced_accuracy.components
    assert components is not None
    assert components.seeds is not None
    assert components.seeds > 0


def test_the_blind_control_is_a_mean_over_draws(setup: Setup) -> None:
    """Two disjoint sets of draws differ by far less than two draws do."""
    first, second = (
        measured_in_runs(cell_of(setup.model_copy(update={"training": 0}), grant=grant))
        for grant in (("model", "auxiliary", "labels"), ("model", "auxiliary", "labels", "update"))
    )
    assert first.metrics == second.metrics  # it sees no update
    assert first.metrics is not None
    assert first.metrics.runs == ATTACKS.get("blind").least_runs >= 60


def test_attacks_without_random_numbers_run_once_on_each_training(setup: Setup) -> None:
    grant = ("model", "auxiliary", "features")
    record = measured_in_runs(cell_of(setup, "oracle", trainings=2, attack_seeds=3, grant=grant))
    assert record.metrics is not None
    assert record.metrics.runs == 2


def test_what_sees_no_model_runs_once(setup: Setup) -> None:
    record = measured_in_runs(cell_of(setup, "prior", trainings=2, attack_seeds=3))
    assert record.metrics is not None
    assert record.metrics.runs is None


def test_the_environment_is_in_the_record(setup: Setup) -> None:
    cell = cell_of(setup, "feature", attack_parameters={"budget": 2})
    record = measured_in_runs(cell)
    assert record.environment is not None
    assert record.environment.compiled is False
    assert record.environment.threads == torch.get_num_threads()
    assert {"torch", "numpy", "scipy", "scikit-learn"} <= set(record.versions)
    blind = measured_in_runs(cell_of(setup))
    assert blind.environment is not None
    assert blind.environment.compiled is None


def test_swapped_answers_of_an_oracle_tell_what_labels_tell(setup: Setup) -> None:
    """Other people's true features agree with nobody's, and an exact cosine is 1."""
    grant = ("model", "auxiliary", "features")
    metrics = measured_in_runs(cell_of(setup, "oracle", grant=grant)).metrics
    assert metrics is not None
    assert metrics.feature_cosine is not None
    assert metrics.swapped_cosine is not None
    assert metrics.feature_cosine.value == pytest.approx(1)
    assert metrics.swapped_cosine.value is not None
    assert metrics.swapped_cosine.value < 0.6
    of = metrics.properties["gender"]
    assert of.swapped_balanced_accuracy is not None
    assert of.swapped_balanced_accuracy.value is not None
    assert of.balanced_accuracy.value is not None
    assert of.swapped_balanced_accuracy.value < of.balanced_accuracy.value


def test_others_have_the_labels_as_far_as_they_go_and_nobody_is_taken_twice() -> None:
    rng = np.random.default_rng(0)
    labels = np.array([0, 0, 1, 1, 2, 5, 6, 7])
    for _ in range(20):
        others = rng.permutation(np.arange(8))
        rows = _alike(np.array([0, 1, 3, 4, 0]), others, labels, rng)
        assert sorted(labels[rows[[0, 1, 4]]]) == [0, 0, 1]
        assert len(set(rows.tolist())) == 5


def test_noise_on_an_update_is_drawn_once_for_all_attack_seeds(setup: Setup) -> None:
    """Several draws would let an attack average the noise out."""
    noise = {"defense": "gaussian", "defense_parameters": {"sigma": 0.1}}
    cell = cell_of(setup, "feature", attack_parameters={"budget": 1}, attack_seeds=2, **noise)
    (context,) = contexts_of(cell)
    resolved, truths = ResolvedCell.of(cell), victim_batches(context, 2, 24)
    first, second = (Exchange.of(resolved, 0, number) for number in (0, 1))
    draws = [
        torch.randn(3, generator=exchange.defense_generator(truths[0], 0))
        for exchange in (first, second)
    ]
    assert torch.equal(*draws)
    assert first.attack_seed(resolved.attack, 0) != second.attack_seed(resolved.attack, 0)


def test_the_distortion_of_few_batches_has_no_interval_however_many_runs(setup: Setup) -> None:
    noise = {"defense": "gaussian", "defense_parameters": {"sigma": 0.1}}
    cell = cell_of(
        setup, "feature", batch_size=6, attack_parameters={"budget": 1}, attack_seeds=3, **noise
    )
    metrics = measured_in_runs(cell).metrics
    assert metrics is not None
    assert metrics.defense is not None
    assert metrics.defense.distortion.value is not None
    assert metrics.defense.distortion.low is None


def test_with_one_batch_there_is_nobody_to_swap_with(setup: Setup) -> None:
    cell = cell_of(setup, batch_size=8, individuals=8)
    metrics = measured_in_runs(cell).metrics
    assert metrics is not None
    assert metrics.swapped_cosine is None
    assert metrics.properties["gender"].swapped_balanced_accuracy is None
    # Nor enough batches for an interval.
    accuracy = metrics.properties["gender"].balanced_accuracy
    assert accuracy.value is not None
    assert accuracy.low is accuracy.high is None


def test_what_all_features_share_does_not_count(setup: Setup) -> None:
    """A constant of a hundred times their size leaves every cosine where it was."""
    (context,) = contexts_of(cell_of(setup))
    truths = victim_batches(context, 2, 24)
    draw = torch.Generator().manual_seed(0)
    scores = {name: torch.full((2,), 0.5) for name in truths[0].properties}
    resolved = ResolvedCell.of(cell_of(setup))
    blind = infer(
        resolved.attack, truths, Exchange.of(resolved), context, lambda share: None
    ).results
    shift = 100 * torch.rand(truths[0].features.shape[1], generator=draw)
    standardise = standardisation_of(context)
    moved = replace(standardise, mean=standardise.mean + shift)
    here = score([Run(truths, blind, standardise)], ScoringSetup.of([context]))
    there = score(
        [
            Run(
                [replace(truth, features=truth.features + shift) for truth in truths],
                [replace(b, features=b.features + shift, scores=scores) for b in blind],  # type: ignore[operator]
                moved,
            )
        ],
        ScoringSetup.of([context]),
    )
    assert here.feature_cosine is not None
    assert there.feature_cosine is not None
    assert there.feature_cosine.value == pytest.approx(here.feature_cosine.value, abs=1e-3)


def covered(trainings: int, between: float, batches: int = 16, trials: int = 400) -> float:
    """The share of intervals that hold the truth, victims and trainings being random."""
    draw = np.random.default_rng(11)
    held = 0
    for trial in range(trials):
        skill = np.repeat(draw.normal(0.0, 0.05, batches), 32)
        of_training = draw.normal(0.7, between, trainings)[:, None]
        right = draw.random((trainings, 32 * batches)) < (of_training + skill)
        bootstrap = Bootstrap([batches_of(batches, 32)], trial, np.arange(trainings))
        found = bootstrap.mean(right.astype(float))
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 0.7 <= found.high
    return held / trials


@pytest.mark.parametrize("between", [0.0, 0.02, 0.05])
def test_intervals_over_three_trainings_keep_their_coverage(between: float) -> None:
    assert covered(3, between) >= 0.92


def test_an_interval_of_one_training_ignores_that_trainings_vary() -> None:
    """What three trainings are for: victims alone cover far less."""
    assert covered(1, 0.05) < 0.75
