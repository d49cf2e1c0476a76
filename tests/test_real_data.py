"""End to end on real CelebA faces."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cells import Cell
from bench.measure import measure
from bench.plugins import build, parameters_of
from bench.preparation import prepare
from bench.registry import ATTACKS
from bench.store import Metrics

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def measured(data_root: Path, attack: str, **fields: object) -> Metrics:
    cell = Cell.model_validate(
        {
            "dataset": "celeba",
            "dataset_parameters": {"selection": "natural"},
            "properties": ("gender", "glasses", "smile", "young"),
            "main_task": "Mouth_Slightly_Open+Black_Hair+Bangs",
            "model_parameters": {"width": 8},
            "rounds": 40,
            "attack": attack,
            "individuals": 8,
            "grant": ("model", "update", "auxiliary", "labels", "features"),
            **fields,
        }
    )
    prepared = prepare(cell.setup, data_root, "cpu", lambda message: None)
    metrics = measure(cell, prepared, lambda share: None).metrics
    assert metrics is not None
    return metrics


def test_a_single_face_s_feature_is_recovered(data_root: Path) -> None:
    cosine = measured(data_root, "feature", batch_size=1).feature_cosine
    assert cosine is not None
    assert cosine.value is not None
    assert cosine.value >= 0.99


@pytest.mark.parametrize("attack", ["dlg", "ig", "gradinversion"])
def test_the_attacks_it_is_compared_with_learn_more_than_blind(
    data_root: Path, attack: str
) -> None:
    parameters = {"seeds": 1} if attack == "gradinversion" else {}
    complete = parameters_of(build(ATTACKS, attack, parameters))
    found = measured(data_root, attack, batch_size=1, attack_parameters=complete)
    blind = measured(data_root, "blind", batch_size=1)
    assert found.feature_cosine is not None
    assert blind.feature_cosine is not None
    assert found.feature_cosine.low is not None
    assert blind.feature_cosine.high is not None
    assert found.feature_cosine.low > blind.feature_cosine.high
    assert found.images is not None


def test_the_oracle_reads_gender_off_true_features_and_blind_does_not(data_root: Path) -> None:
    oracle, blind = (
        measured(data_root, name, batch_size=1, individuals=400).properties["gender"]
        for name in ("oracle", "blind")
    )
    assert oracle.balanced_accuracy.low is not None
    assert blind.balanced_accuracy.high is not None
    assert oracle.balanced_accuracy.low > 0.65
    assert blind.balanced_accuracy.high < 0.65
