"""The synthetic data set."""

from __future__ import annotations

from itertools import combinations
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor, nn

from leakbench.base.errors import UsageError
from leakbench.base.registry import DATASETS
from leakbench.data.dataset import Individuals
from leakbench.datasets.synthetic import BLOCK, SUBJECTS, SubjectName, Synthetic

SUBJECT_NAMES: tuple[SubjectName, ...] = get_args(SubjectName)
MAIN_TASK = {
    "faces": ("hat", "dark_hair", "looking_left"),
    "vehicles": ("dark_paint", "facing_left", "two_windows"),
    "birds": ("long_tail", "facing_left", "crest"),
}
ATTRIBUTES = [
    (name, attribute)
    for name, subject in SUBJECTS.items()
    for attribute in (*subject.fixed_attributes, *subject.varying_attributes)
]

each_subject = pytest.mark.parametrize("subject", SUBJECT_NAMES)


def all_attributes(subject: SubjectName, blocks: int) -> dict[str, NDArray[np.bool_]]:
    """Attributes alone: factors are sampled without drawing."""
    factors = [Synthetic(subject=subject, images_per_identity=1).factors(b) for b in range(blocks)]
    return {
        name: np.concatenate([block.attributes[name] for block in factors])
        for name in factors[0].attributes
    }


def test_is_registered_by_name() -> None:
    assert DATASETS.get("synthetic") is Synthetic


@each_subject
@pytest.mark.parametrize("size", [32, 64, 128])
def test_has_the_shapes_asked_for(subject: SubjectName, size: int) -> None:
    loaded = Synthetic(subject=subject, individuals=5).load(None, size)
    assert loaded.images.shape == (5, 3, size, size)
    assert loaded.images.dtype == np.uint8
    assert loaded.identities.tolist() == [0, 0, 0, 0, 1]
    assert loaded.identities.dtype == np.int64
    for values in loaded.attributes.values():
        assert values.shape == (5,)
        assert values.dtype == np.bool_


@each_subject
def test_the_same_parameters_draw_the_same_bits(subject: SubjectName) -> None:
    first, again = (Synthetic(subject=subject, individuals=80).load(None, 32) for _ in range(2))
    assert np.array_equal(first.images, again.images)
    assert first.fingerprint == again.fingerprint


@each_subject
@pytest.mark.parametrize("images_per_identity", [1, 3, 100])
def test_a_larger_data_set_begins_with_the_smaller(
    subject: SubjectName, images_per_identity: int
) -> None:
    small, large = (
        Synthetic(
            subject=subject, individuals=individuals, images_per_identity=images_per_identity
        ).load(None, 32)
        for individuals in (BLOCK + 7, 2 * BLOCK + 1)
    )
    assert np.array_equal(small.images, large.images[: len(small)])
    assert np.array_equal(small.identities, large.identities[: len(small)])
    for name, values in small.attributes.items():
        assert np.array_equal(values, large.attributes[name][: len(small)])


def test_every_parameter_changes_the_fingerprint() -> None:
    changed: list[tuple[dict[str, Any], int]] = [
        ({}, 32),
        ({}, 64),
        ({"subject": "birds"}, 32),
        ({"individuals": 9}, 32),
        ({"images_per_identity": 2}, 32),
        ({"seed": 1}, 32),
    ]
    fingerprints = {
        Synthetic(**{"individuals": 8, **parameters}).load(None, size).fingerprint
        for parameters, size in changed
    }
    assert len(fingerprints) == len(changed)


def test_another_seed_draws_other_individuals() -> None:
    a, b = (Synthetic(individuals=8, seed=seed).load(None, 32) for seed in (0, 1))
    assert not np.array_equal(a.images, b.images)


@each_subject
def test_attributes_are_balanced_and_independent(subject: SubjectName) -> None:
    attributes = all_attributes(subject, blocks=100)
    error = 1 / np.sqrt(100 * BLOCK)
    for values in attributes.values():
        assert abs(values.mean() - 0.5) < 4 * 0.5 * error
    for a, b in combinations(attributes.values(), 2):
        assert abs(np.corrcoef(a, b)[0, 1]) < 4 * error
    signs = np.prod([np.where(values, 1, -1) for values in attributes.values()], axis=0)
    assert abs(signs.mean()) < 4 * error


@each_subject
@pytest.mark.parametrize("images_per_identity", [3, 100])
def test_an_identity_keeps_what_is_fixed(subject: SubjectName, images_per_identity: int) -> None:
    data_set = Synthetic(subject=subject, images_per_identity=images_per_identity)
    blocks = [data_set.factors(block) for block in range(6)]
    identities = np.arange(6 * BLOCK) // images_per_identity
    fixed = SUBJECTS[subject].fixed_attributes, SUBJECTS[subject].fixed_latents
    rows = [np.concatenate([block.attributes[name] for block in blocks]) for name in fixed[0]] + [
        np.concatenate([block.latents[name] for block in blocks]) for name in fixed[1]
    ]
    people = np.unique(np.stack([identities, *rows]), axis=1)
    assert people.shape[1] == len(np.unique(identities))


@each_subject
def test_images_of_an_identity_differ(subject: SubjectName) -> None:
    images = Synthetic(subject=subject, individuals=4).load(None, 32).images.astype(float)
    for a, b in combinations(images, 2):
        assert np.abs(a - b).mean() > 5


@pytest.mark.parametrize(("subject", "attribute"), ATTRIBUTES)
def test_every_attribute_shows(subject: SubjectName, attribute: str) -> None:
    factors = Synthetic(subject=subject).factors(0)[:16]
    draw = SUBJECTS[subject].draw
    before = draw(factors, 64, np.random.default_rng(0)).astype(float)
    after = draw(factors.flipped(attribute), 64, np.random.default_rng(0)).astype(float)
    changed = np.abs(before - after).max(axis=1) > 16
    assert (changed.sum(axis=(1, 2)) >= 12).all()


@pytest.mark.parametrize(
    ("parameters", "size", "named"),
    [
        ({"subject": "cats"}, 32, "'cats'.*faces, vehicles, birds"),
        ({"individuals": 0}, 32, "individuals=0.*1 or more"),
        ({"images_per_identity": -2}, 32, "images_per_identity=-2.*1 or more"),
        ({"seed": -1}, 32, "seed=-1.*0 or more"),
        ({}, 8, "size 8.*16 to 512"),
        ({}, 4096, "size 4096.*16 to 512"),
    ],
)
def test_a_bad_parameter_is_named_with_the_way_out(
    parameters: dict[str, Any], size: int, named: str
) -> None:
    with pytest.raises(UsageError, match=named):
        Synthetic(**parameters).load(None, size)


def convolutions() -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in ((3, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.Flatten())


def train_on_main_task(
    people: Individuals, images: Tensor, subject: str, rows: Tensor
) -> nn.Module:
    """Plain SGD on the eight classes of three main-task attributes; returns the convolutions."""
    torch.manual_seed(0)
    features = convolutions()
    model = nn.Sequential(features, nn.Linear(128 * 16, 256), nn.ReLU(), nn.Linear(256, 8))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.05)
    bits = [people.attributes[name] * 2**i for i, name in enumerate(MAIN_TASK[subject])]
    classes = torch.from_numpy(np.sum(bits, axis=0))
    for _ in range(6):
        for batch in rows[torch.randperm(len(rows))].split(16):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(images[batch]), classes[batch]).backward()
            optimiser.step()
    return features


def probe(x: Tensor, y: NDArray[np.bool_], train: NDArray[np.bool_]) -> float:
    """Balanced accuracy of the better of two regularised linear probes."""
    x = (x - x[train].mean(0)) / (x[train].std(0) + 1e-6)
    # A ridge-penalised solution lies in the span of the training rows: probe in their coordinates.
    spread, axes = torch.linalg.eigh(x[train] @ x[train].T)
    kept = spread > spread.max() * 1e-6
    place = (x @ (x[train].T @ axes[:, kept] / spread[kept].sqrt())).numpy()
    return max(
        balanced_accuracy_score(
            y[~train],
            LogisticRegression(C=c, max_iter=200)
            .fit(place[train], y[train])
            .predict(place[~train]),
        )
        for c in (1e-4, 1e-2)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("subject", "asked"),
    [
        ("faces", "glasses"),
        pytest.param("vehicles", "wheel", marks=pytest.mark.nightly),
        pytest.param("birds", "beak", marks=pytest.mark.nightly),
    ],
)
def test_features_of_a_main_task_know_more_of_a_property_than_pixels(
    subject: SubjectName, asked: str
) -> None:
    people = Synthetic(subject=subject, individuals=1_200).load(None, 32)
    images = torch.from_numpy(np.array(people.images)).float() / 64 - 2
    train = people.identities % 2 == 0
    rows = torch.from_numpy(np.flatnonzero(train))
    features = train_on_main_task(people, images, subject, rows)
    with torch.no_grad():
        of_features = probe(features(images), people.attributes[asked], train)
        of_pixels = probe(images.flatten(1), people.attributes[asked], train)
    assert of_pixels < 0.8
    assert of_features > of_pixels + 0.05
