"""Metrics, intervals and matching against results in closed form."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    brier_score_loss,
    roc_auc_score,
)

from leakbench.evaluation.measuring import victim_batches
from leakbench.evaluation.preparation import prepare
from leakbench.evaluation.scoring import groupings_of
from leakbench.experiments.cell import Setup
from leakbench.metrics.classification import (
    Metric,
    accuracy,
    auc,
    balanced_accuracy,
    brier_score,
    tpr_at_fpr,
)
from leakbench.metrics.estimates import (
    Bootstrap,
    batches_of,
    estimate,
    estimate_mean,
    groups_of,
)
from leakbench.metrics.matching import match_individuals


@pytest.mark.parametrize(
    ("metric", "peer", "decided"),
    [
        (accuracy, accuracy_score, True),
        (balanced_accuracy, balanced_accuracy_score, True),
        (auc, roc_auc_score, False),
        (brier_score, brier_score_loss, False),
    ],
)
def test_metrics_agree_with_scikit_learn(metric: Metric, peer: object, decided: bool) -> None:
    draw = np.random.default_rng(0)
    for _ in range(20):
        scores = np.round(draw.random(40), 1)
        present = draw.random(40) < 0.4
        weights = draw.integers(0, 4, (3, 40)).astype(float)
        ours = metric(scores, present, weights)
        for row, value in zip(weights, ours, strict=True):
            given = scores >= 0.5 if decided else scores
            assert value == pytest.approx(peer(present, given, sample_weight=row))  # type: ignore[operator]


def test_a_metric_is_undefined_where_a_class_is_absent() -> None:
    scores, present = np.array([0.2, 0.9]), np.array([True, True])
    for metric in (balanced_accuracy, auc):
        assert np.isnan(metric(scores, present, np.ones((1, 2)))).all()
        found = estimate(lambda w, m=metric: m(scores, present, w), [np.arange(2)], seed=0)
        assert found.value is found.low is found.high is None


def test_the_interval_of_a_mean_is_the_textbook_one() -> None:
    values = np.random.default_rng(1).normal(size=900)
    found = estimate_mean(values, [np.arange(900)], seed=0)
    half = norm.ppf(0.975) * values.std() / 30
    assert found.value == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=half / 10)
    assert found.high == pytest.approx(values.mean() + half, abs=half / 10)


def test_the_interval_counts_groups_not_individuals() -> None:
    """Individuals that agree within their group are worth one each group."""
    of_group = np.random.default_rng(2).normal(size=100)
    alone = estimate_mean(of_group, [np.arange(100)], seed=0)
    batches = batches_of(100, 8)
    assert asdict(estimate_mean(np.repeat(of_group, 8), [batches], seed=0)) == pytest.approx(
        asdict(alone)
    )


def test_the_interval_holds_that_of_every_grouping() -> None:
    """Each batch of eight shows eight people, and each person is in eight batches."""
    people = groups_of(np.tile(np.arange(90, 98), 8))
    of_person = np.random.default_rng(2).normal(size=8)[people]
    batches = batches_of(8, 8)
    both = estimate_mean(of_person, [batches, people], seed=0)
    by_person = estimate_mean(of_person, [people], seed=0)
    by_batch = estimate_mean(of_person, [batches], seed=0)
    assert both == by_person
    assert by_batch.low == pytest.approx(by_batch.high)  # all batches have the same mean


@pytest.mark.parametrize("repeated", [False, True])
def test_shared_resamples_give_the_intervals_of_fresh_ones(repeated: bool) -> None:
    """Bit for bit, for every metric, in whatever order they are asked for."""
    draw = np.random.default_rng(4)
    scores, present = draw.random(48), draw.random(48) < 0.4
    groupings = [batches_of(12, 4)]
    if repeated:
        groupings.append(groups_of(draw.integers(0, 30, 48)))
    shared = Bootstrap(groupings, seed=5)
    for metric in (accuracy, balanced_accuracy, auc, brier_score, tpr_at_fpr(0.05)) * 2:
        fresh = estimate(lambda w, m=metric: m(scores, present, w), groupings, seed=5)
        assert shared.estimate(lambda w, m=metric: m(scores, present, w)) == fresh
        assert fresh.low is not None
    assert shared.mean(scores) == estimate_mean(scores, groupings, seed=5)
    other = Bootstrap(groupings, seed=6)
    assert other.mean(scores) != shared.mean(scores)


def test_resamples_are_drawn_once_and_cannot_be_changed() -> None:
    shared = Bootstrap([np.arange(8)], seed=0)
    first = shared.resamples
    shared.mean(np.arange(8.0))
    assert shared.resamples is first
    with pytest.raises(ValueError, match="read-only"):
        first[0].weights[0, 0] = 1


@pytest.mark.parametrize(("batches", "batch_size"), [(256, 1), (8, 32)])
def test_nominal_coverage_is_kept(batches: int, batch_size: int) -> None:
    """About 95 % of the intervals hold the true accuracy, with few batches too."""
    draw = np.random.default_rng(3)
    held = []
    for trial in range(200):
        # Individuals of a batch have something in common: the attack went well or badly there.
        skill = np.repeat(draw.normal(0.8, 0.05, batches).clip(0, 1), batch_size)
        right = draw.random(batches * batch_size) < skill
        found = estimate_mean(right.astype(float), [batches_of(batches, batch_size)], seed=trial)
        assert found.low is not None
        assert found.high is not None
        held.append(found.low <= 0.8 <= found.high)
    assert 0.91 <= np.mean(held) <= 0.99


def covered(batches: int, size: int, trials: int = 400) -> float:
    """The share of intervals of a mean that hold the truth."""
    draw = np.random.default_rng(3)
    held = 0
    for trial in range(trials):
        skill = np.repeat(draw.normal(0.8, 0.05, batches).clip(0, 1), size)
        right = (draw.random(batches * size) < skill).astype(float)
        found = estimate_mean(right, [batches_of(batches, size)], seed=trial)
        if found.low is None or found.high is None:
            return 0.0
        held += found.low <= 0.8 <= found.high
    return held / trials


def test_four_batches_get_no_interval_since_it_would_hold_the_truth_too_rarely(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert covered(4, 64) == 0
    monkeypatch.setattr("leakbench.metrics.estimates.MIN_GROUPS", 2)
    assert covered(4, 64) < 0.91


def test_matching_undoes_any_order() -> None:
    true = torch.rand(32, 50)
    shuffled = torch.randperm(32)
    order, cosine = match_individuals(true[shuffled], true)
    assert torch.equal(shuffled[order], torch.arange(32))
    torch.testing.assert_close(cosine, torch.ones(32))


def test_matching_is_one_to_one_and_best_in_sum() -> None:
    true = torch.eye(2)
    # Both answers resemble individual 0 most; together they are best the other way round.
    answers = torch.tensor([[0.8, 0.6], [0.9, 0.1]])
    order, _ = match_individuals(answers, true)
    assert order.tolist() == [1, 0]


def test_individuals_are_grouped_by_batch_and_by_identity(small_setup: Setup) -> None:
    context = prepare(small_setup, None, "cpu", lambda message: None)
    many = victim_batches(context, 4, individuals=80)
    batches, people = groupings_of(many)
    assert np.bincount(batches).tolist() == [4] * 20
    victims = context.individuals.identities[context.split.victims]
    assert sorted(np.bincount(people)) == sorted(np.unique(victims, return_counts=True)[1])
    once = victim_batches(context, 4, individuals=4 * (len(np.unique(victims)) // 4))
    assert len(groupings_of(once)) == 1
