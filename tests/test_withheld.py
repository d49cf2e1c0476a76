"""What a known defense withholds of a gradient, and what demixing has of it in spite of that."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.recovered import RecoveredIndividuals
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.linear_layers.demixing.withheld import (
    completed,
    completed_to_rank,
    predictor_of,
    withheld_of,
)
from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import ATTACKS
from leakbench.evaluation.measuring import measure
from leakbench.evaluation.preparation import prepare
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.federation.defense import Defense
from leakbench.federation.defenses.noise import GaussianNoise
from leakbench.federation.defenses.soteria import Soteria
from leakbench.federation.defenses.sparsify import Sparsification
from leakbench.metrics.of_attacks import CERTIFIED
from planting import Planted, best_cosines, budget, demixing_attack, planted


def low_rank(rows: int, columns: int, rank: int) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(rows, rank).double() @ torch.randn(rank, columns).double()


@pytest.mark.parametrize("rank", [1, 4])
def test_a_matrix_of_low_rank_follows_from_a_part_of_its_entries(rank: int) -> None:
    matrix = low_rank(60, 80, rank)
    known = torch.rand(60, 80) < 0.5
    filled = completed_to_rank(torch.where(known, matrix, 0.0), known, rank)
    torch.testing.assert_close(filled, matrix, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("share", "rank"), [(0.3, 2), (0.3, 8), (0.25, 8), (0.2, 4)])
def test_a_completion_is_right_or_is_none(share: float, rank: int) -> None:
    """Few entries tell little; what does not fit them is not taken for the gradient."""
    right = 0
    for seed in range(6):
        torch.manual_seed(seed)
        matrix = torch.randn(128, rank).double() @ torch.randn(rank, 97).double()
        withheld = torch.rand(128, 97) >= share
        given = torch.where(withheld, 0.0, matrix)
        found = completed(given, withheld, rank)
        if torch.equal(found.gradient, given):
            continue
        error = (found.gradient - matrix)[found.rows][:, :-1][:, found.columns]
        assert error.norm() < 1e-2 * matrix.norm()
        right += 1
    assert right >= 4


def test_rows_and_columns_with_too_few_entries_are_left_out() -> None:
    matrix = low_rank(40, 50, 2)
    withheld = torch.rand(40, 50) < 0.3
    withheld[3], withheld[:, 7] = True, True
    withheld[3, :4] = False
    found = completed(torch.where(withheld, 0.0, matrix), withheld, 2)
    assert found.rows.nonzero().flatten().tolist() == [r for r in range(40) if r != 3]
    assert found.columns.nonzero().flatten().tolist() == [c for c in range(49) if c != 7]
    inside = found.gradient[found.rows][:, :7]
    torch.testing.assert_close(inside, matrix[found.rows][:, :7], rtol=1e-4, atol=1e-4)


def test_without_the_bias_nothing_is_completed() -> None:
    matrix = low_rank(40, 50, 2)
    withheld = torch.zeros(40, 50, dtype=torch.bool)
    withheld[:, -1] = True
    found = completed(matrix, withheld, 2)
    assert found.rows.all()
    assert found.columns.all()
    assert torch.equal(found.gradient, matrix)


def test_a_noisy_update_withholds_nothing() -> None:
    batch = planted(4)
    update = batch.changed(GaussianNoise(sigma=0.1))
    reliability = GaussianNoise(sigma=0.1).reliability(update, 4)
    assert not withheld_of(batch.head.first, update, reliability).any()


def test_of_random_entries_a_column_without_any_is_a_feature_that_nobody_has() -> None:
    batch = planted(2)
    nobody_has = (batch.features == 0).all(0)
    assert nobody_has.any()
    defense = Sparsification(fraction=0.5, choice="random")
    update = batch.changed(defense)
    withheld = withheld_of(batch.head.first, update, defense.reliability(update, 2))
    assert not withheld[:, :-1][:, nobody_has].any()
    assert 0.4 < withheld[:, :-1][:, ~nobody_has].double().mean() < 0.8


def test_features_are_predicted_from_others_and_known_ones_are_themselves() -> None:
    torch.manual_seed(0)
    causes = torch.rand(500, 3).double()
    features = causes @ torch.rand(3, 12).double() + 0.5
    known = torch.arange(12) < 6
    predictor = predictor_of(features[100:], known)
    whole = RecoveredIndividuals(features[:100, known], *(torch.zeros(100) for _ in range(5)))
    predicted = predictor.complete(whole).features
    torch.testing.assert_close(predicted[:, known], features[:100, known])
    assert functional.cosine_similarity(predicted, features[:100]).min() > 0.99


def found_behind(batch: Planted, defense: Defense, known: bool) -> RecoveredIndividuals:
    update, size = batch.changed(defense), len(batch.labels)
    reliability = defense.reliability(update, size) if known else {}
    return recovered(batch, VictimBatch(update, size, 0, reliability))


def recovered(planted: Planted, batch: VictimBatch) -> RecoveredIndividuals:
    attack = demixing_attack(planted.head, budget(200, rounds=4))
    auxiliary = planted.auxiliary, planted.auxiliary_labels
    (found,) = attack.recover(planted.head, [batch], auxiliary, lambda share: None)
    return found


@pytest.mark.parametrize("classes", [2, 8])
def test_random_entries_left_out_hide_nobody_from_who_knows(classes: int) -> None:
    batch = planted(4, classes)
    defense = Sparsification(fraction=0.6, choice="random")
    assert not found_behind(batch, defense, known=False).certain.any()
    found = found_behind(batch, defense, known=True)
    assert len(found) == 4
    assert found.certified.all()
    assert best_cosines(found, batch.features).min() > CERTIFIED


def test_withheld_columns_are_predicted_and_nobody_is_certified() -> None:
    batch = planted(4)
    update = dict(batch.update)
    name = batch.head.first.names[0]
    withheld = torch.arange(batch.features.shape[1]) % 2 == 0
    update[name] = update[name].masked_fill(withheld, 0.0)
    reliability = {name: (~withheld).float()[None]}
    found = recovered(batch, VictimBatch(update, 4, 0, reliability))
    assert found.certain.all()
    assert not found.certified.any()
    assert found.features.shape == batch.features.shape
    pairs = functional.cosine_similarity(
        found.features[:, None, ~withheld], batch.features.double()[None, :, ~withheld], dim=2
    )
    assert pairs.max(1).values.min() > CERTIFIED


def test_behind_soteria_who_knows_it_has_features_that_the_static_attack_has_not(
    small_setup: Setup,
) -> None:
    context = prepare(small_setup, None, "cpu", lambda message: None)
    parameters = parameters_of(build(ATTACKS, "mask_demixing", {"budget": 1}))
    defense = Soteria(fraction=0.5)
    fields = {
        "attack": "mask_demixing",
        "attack_parameters": parameters,
        "batch_size": 4,
        "individuals": 16,
        "defense": "soteria",
        "defense_parameters": parameters_of(defense),
    }
    grant = ("model", "update", "auxiliary")
    cosines = []
    for granted in (grant, (*grant, "defense")):
        cell = Cell.model_validate(small_setup.model_dump() | fields | {"grant": granted})
        metrics = measure(ResolvedCell.of(cell), [context], lambda share: None).metrics
        assert metrics is not None
        assert metrics.certificates is not None
        assert metrics.certificates.false == 0
        assert metrics.feature_cosine is not None
        cosines.append(metrics.feature_cosine.value)
    assert cosines[1] is not None
    assert cosines[0] is not None
    assert cosines[1] > cosines[0] + 0.02
