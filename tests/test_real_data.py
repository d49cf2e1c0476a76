"""End to end on real individuals: faces, vehicles, birds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import ATTACKS, DATASETS
from leakbench.evaluation.measuring import measure
from leakbench.evaluation.preparation import prepare
from leakbench.experiments.cell import Cell
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.records.record import Metrics

Gray = NDArray[np.floating]

pytestmark = [pytest.mark.real_data, pytest.mark.slow]


def measured(data_root: Path, attack: str, **fields: object) -> Metrics:
    cell = Cell.model_validate(
        {
            "dataset": "celeba",
            "image_size": 32,
            "dataset_parameters": {"selection": "natural"},
            "properties": ("gender",),
            "main_task": "Mouth_Slightly_Open+Black_Hair+Bangs",
            "model_parameters": {"width": 8},
            "property_model": "logistic",
            "rounds": 40,
            "attack": attack,
            "individuals": 8,
            "grant": ("model", "update", "auxiliary", "labels", "features"),
            **fields,
        }
    )
    context = prepare(cell.setup, data_root, "cpu", lambda message: None)
    metrics = measure(ResolvedCell.of(cell), [context], lambda share: None).metrics
    assert metrics is not None
    return metrics


@pytest.mark.nightly
def test_a_single_face_s_feature_is_recovered(data_root: Path) -> None:
    found = measured(data_root, "feature", batch_size=1)
    assert found.feature_cosine is not None
    assert found.swapped_cosine is not None
    assert found.swapped_cosine.high is not None
    # Of standardised features, in which another person has about 0.
    assert found.feature_cosine.value is not None
    assert found.feature_cosine.value >= 0.95
    assert found.swapped_cosine.high <= 0.4


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param("dlg", marks=pytest.mark.nightly),
        "ig",
        pytest.param("gradinversion", marks=pytest.mark.nightly),
    ],
)
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


@pytest.mark.parametrize(
    "main_task",
    [
        pytest.param("Mouth_Slightly_Open", marks=pytest.mark.nightly),
        "Mouth_Slightly_Open+Black_Hair+Bangs",
    ],
)
def test_everybody_in_a_batch_is_found_exactly_without_labels(
    data_root: Path, main_task: str
) -> None:
    found = measured(
        data_root,
        "mask_demixing",
        main_task=main_task,
        batch_size=32,
        individuals=64,
        grant=("model", "update", "auxiliary"),
    )
    assert found.certificates is not None
    assert (found.certificates.share, found.certificates.false) == (1.0, 0)
    assert found.label_accuracy == 1


def test_the_oracle_reads_gender_off_true_features_and_blind_does_not(data_root: Path) -> None:
    # The blind control is a mean over many draws, so that fewer individuals are enough.
    oracle, blind = (
        measured(data_root, name, batch_size=1, individuals=individuals).properties["gender"]
        for name, individuals in (("oracle", 200), ("blind", 64))
    )
    assert oracle.balanced_accuracy.low is not None
    assert blind.balanced_accuracy.high is not None
    assert oracle.balanced_accuracy.low > 0.65
    assert blind.balanced_accuracy.high < 0.65


EACH: dict[str, tuple[dict[str, object], tuple[str, ...], str]] = {
    "celeba": ({"selection": "natural"}, ("gender",), "Mouth_Slightly_Open+Black_Hair+Bangs"),
    "lfw": ({}, ("gender", "glasses", "smile", "young"), "Mouth_Slightly_Open"),
    "utkface": ({}, ("gender", "young"), "white"),
    "apascal": ({}, ("wheel",), "Window"),
    "cub": ({"labels": "class"}, ("beak",), "has_wing_color::black"),
}


@pytest.mark.parametrize(
    "name",
    [name if name == "celeba" else pytest.param(name, marks=pytest.mark.nightly) for name in EACH],
)
def test_a_single_individual_s_feature_is_recovered_from_every_data_set(
    data_root: Path, name: str
) -> None:
    parameters, properties, main_task = EACH[name]
    folder = DATASETS.get(name).folder
    if not (data_root / folder).is_dir():
        pytest.skip(f"no {folder}/ in {data_root}")
    metrics = measured(
        data_root,
        "feature",
        batch_size=1,
        individuals=2,
        dataset=name,
        dataset_parameters=parameters_of(build(DATASETS, name, parameters)),
        properties=properties,
        main_task=main_task,
    )
    assert set(metrics.properties) == set(properties)
    assert metrics.feature_cosine is not None
    assert metrics.feature_cosine.value is not None
    assert metrics.swapped_cosine is not None
    assert metrics.swapped_cosine.value is not None
    # Of standardised features: far above what it has for somebody else.
    assert metrics.feature_cosine.value >= 0.8
    assert metrics.swapped_cosine.value <= metrics.feature_cosine.value - 0.5


@pytest.mark.parametrize("name", ["lfw", pytest.param("utkface", marks=pytest.mark.nightly)])
def test_gender_is_read_off_true_features_of_other_faces(data_root: Path, name: str) -> None:
    _, _, main_task = EACH[name]
    if not (data_root / name).is_dir():
        pytest.skip(f"no {name}/ in {data_root}")
    oracle = measured(
        data_root,
        "oracle",
        batch_size=1,
        individuals=200,
        dataset=name,
        dataset_parameters=parameters_of(build(DATASETS, name, {})),
        properties=("gender",),
        main_task=main_task,
    ).properties["gender"]
    assert oracle.balanced_accuracy.low is not None
    assert oracle.balanced_accuracy.low > 0.55


def test_celeba_and_lfw_faces_are_at_one_scale(data_root: Path) -> None:
    """Each set's mean face fits the other's best at its own scale, to within an eighth."""
    if not (data_root / "lfw").is_dir():
        pytest.skip(f"no lfw/ in {data_root}")
    celeba, lfw = (
        build(DATASETS, name, {"selection": "natural"}).load(data_root, 64).images.mean((0, 1))
        for name in ("celeba", "lfw")
    )
    scales = (0.7, 0.8, 0.9, 1.0, 1.1, 1.25, 1.4)
    agreement = [_best_agreement(celeba, lfw, scale) for scale in scales]
    assert 0.875 < scales[int(np.argmax(agreement))] < 1.125


def _best_agreement(one: Gray, other: Gray, scale: float) -> float:
    """Return the highest correlation of one face's middle with the other's, scaled and shifted."""
    side = round(64 * scale)
    larger = np.asarray(Image.fromarray(other.astype(np.float32)).resize((side, side)))
    face = one[20:56, 16:48]
    height, width = face.shape
    middle = (side - width) // 2
    return max(
        float(np.corrcoef(face.ravel(), larger[y : y + height, x : x + width].ravel())[0, 1])
        for y in range(side - height + 1)
        for x in range(max(middle - 3, 0), middle + 4)
    )
