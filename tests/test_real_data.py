"""End to end on real CelebA faces."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cells import Cell
from bench.measure import measure
from bench.preparation import prepare
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


def test_the_oracle_reads_gender_off_true_features_and_blind_does_not(data_root: Path) -> None:
    oracle, blind = (
        measured(data_root, name, batch_size=1, individuals=400).properties["gender"]
        for name in ("oracle", "blind")
    )
    assert oracle.balanced_accuracy.low is not None
    assert blind.balanced_accuracy.high is not None
    assert oracle.balanced_accuracy.low > 0.65
    assert blind.balanced_accuracy.high < 0.65
