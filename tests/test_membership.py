"""Membership: candidates, the row-space test, and how well it tells who is in the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from leakbench.attacks.row_space import distances
from leakbench.base.errors import UsageError
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.federation.defenses.local_steps import LocalSteps
from leakbench.metrics.classification import tpr_at_fpr
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.records.record import Membership
from leakbench.reports.suite_report import reading_aid
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import Observation
from leakbench.threat.validation import check_results
from measuring import measured
from planting import planted
from records import record_of, suite_entries, table_rows


@pytest.fixture(scope="module")
def context(small_setup: Setup) -> EvaluationContext:
    return prepare(small_setup, None, "cpu", lambda message: None)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("individuals", [1, 8, 60])
def test_who_is_in_the_batch_is_in_the_row_space_and_nobody_else(
    individuals: int, activation: str
) -> None:
    batch = planted(individuals, 2, activation=activation)
    inside = distances(batch.head, batch.update, individuals, batch.features)
    outside = distances(batch.head, batch.update, individuals, batch.auxiliary)
    assert inside.max() < 1e-3
    assert outside.min() > 0.05


def test_local_steps_of_the_head_alone_leave_the_row_space_as_it_is() -> None:
    """Features stay the same while the head moves: the sum of all steps has rank B."""
    batch = planted(8)
    update = batch.changed(LocalSteps(epochs=8))
    assert distances(batch.head, update, 8, batch.features).max() < 1e-3
    assert distances(batch.head, update, 8, batch.auxiliary).min() > 0.05


def test_an_update_that_is_not_finite_reveals_nothing() -> None:
    batch = planted(3)
    broken = {name: torch.full_like(value, torch.nan) for name, value in batch.update.items()}
    assert distances(batch.head, broken, 3, batch.features).tolist() == [1, 1, 1]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_the_row_space_finds_all_members_on_the_synthetic_set(
    small_setup: Setup, batch_size: int
) -> None:
    record = measured(small_setup, None, "row_space", {}, batch_size=batch_size, individuals=32,
                      grant=("model", "update", "auxiliary", "candidates"))  # fmt: skip
    assert record.metrics is not None
    assert record.metrics.membership is not None
    assert record.metrics.membership.auc.value == 1
    assert record.metrics.membership.true_positive_rate.value == 1
    assert record.metrics.exact is not None
    assert record.metrics.exact.value == 1
    assert "candidates" in record.knowledge


def test_real_faces_in_the_batch_are_separated_from_others(data_root: Path) -> None:
    setup = Setup(
        dataset="celeba",
        dataset_parameters={"selection": "natural"},
        image_size=32,
        properties=("gender",),
        property_model="logistic",
        main_task="Mouth_Slightly_Open+Black_Hair+Bangs",
        model_parameters={"width": 8},
        rounds=40,
    )
    record = measured(setup, data_root, "row_space", {}, batch_size=32, individuals=128,
                      grant=("model", "update", "auxiliary", "candidates"))  # fmt: skip
    assert record.metrics is not None
    assert record.metrics.membership is not None
    assert record.metrics.membership.true_positive_rate.value == 1


def test_without_the_grant_it_is_refused(small_setup: Setup) -> None:
    with pytest.raises(UsageError, match="needs to know candidates"):
        measured(small_setup, None, "row_space", {}, batch_size=2, individuals=8)


def test_a_single_batch_which_has_no_others_is_refused_before_it_is_measured() -> None:
    cell = Cell(
        dataset="synthetic",
        properties=("glasses",),
        main_task="hat",
        attack="row_space",
        batch_size=4,
        individuals=4,
        grant=("model", "update", "auxiliary", "candidates"),
    )
    with pytest.raises(UsageError, match="there are 4 in all; set `individuals` to 8 at least"):
        ResolvedCell.of(cell).check()
    ResolvedCell.of(cell.model_copy(update={"individuals": 8})).check()


def test_tpr_at_a_rate_takes_ties_together_or_not_at_all() -> None:
    scores = np.array([2.0, 1.0, 1.0, 0.0])
    present = np.array([True, True, False, False])
    once = np.ones((1, 4))
    assert tpr_at_fpr(0.01)(scores, present, once).tolist() == [0.5]
    assert tpr_at_fpr(0.5)(scores, present, once).tolist() == [1.0]
    assert tpr_at_fpr(0.01)(np.zeros(4), present, once).tolist() == [0.0]
    assert np.isnan(tpr_at_fpr(0.01)(scores, np.ones(4, dtype=bool), once)).all()


def test_membership_without_candidates_is_refused(context: EvaluationContext) -> None:
    scores = {"gender": torch.full((2,), 0.3), "glasses": torch.full((2,), 0.7)}
    answer = AttackResult(scores=scores, membership=torch.zeros(4))
    shown = Observation(batch_size=2, seed=0, candidates=torch.zeros(3, 3, 32, 32))
    with pytest.raises(UsageError, match=r"require `Knowledge\.CANDIDATES`"):
        check_results("stub", [answer], [Observation(batch_size=2, seed=0)], context.server)
    with pytest.raises(UsageError, match=r"membership of shape \(4,\), expected \(3,\)"):
        check_results("stub", [answer], [shown], context.server)


SUITE = """
title = "Small"

[cell]
dataset = "synthetic"
properties = ["gender"]
individuals = 32
grant = ["model", "update", "auxiliary", "candidates"]

[attack.row_space]

[attack.blind]
parameters = { labels = "ignored" }

[[group]]
title = "Membership"
layout = "membership"
sweep = { batch_size = [8, 16] }
cell = { main_task = "hat" }
"""


def test_the_table_shows_auc_and_members_found(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    half, all_ = (Estimate(value=v, low=v, high=v) for v in (0.5, 1.0))
    cells = []
    for each in suite_entries(str(path)):
        found = Membership(auc=all_, true_positive_rate=half)
        record = record_of(
            each,
            {"gender": all_},
            membership=found if each.cell.attack == "row_space" else None,
            main_task={"accuracy": 0.5, "most_frequent_class": 0.5},
            classes=2,
        )
        cells.append(Measured(each, record))
    rows = table_rows(cells)
    assert rows[0] == ["main task", "m", "B", "Row space", "Blind"]
    assert rows[2][2:] == ["8", "100.0 [100.0, 100.0] (4 batches), 50.0 [50.0, 50.0]", "–"]
    assert "as many others" in reading_aid(cells)
