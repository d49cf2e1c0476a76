"""Near-duplicates: edited copies of a photo are known again, different photos are not joined."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from leakbench.base.plugins import build
from leakbench.base.registry import DATASETS
from leakbench.data import near_duplicates as module
from leakbench.data.dataset import Individuals
from leakbench.data.near_duplicates import near_duplicates, near_duplicates_of, with_near_duplicates
from leakbench.data.split import split_individuals
from leakbench.datasets.synthetic import Synthetic
from sampling import IN_TWO_PLACES

SIZE = 64
Pixels = NDArray[np.uint8]


@pytest.fixture(scope="module")
def people() -> Individuals:
    """Four photos of each of 300 people: too many for comparing all pairs."""
    return Synthetic(individuals=1200).load(None, SIZE)


def edited(image: Pixels, edit: Callable[[Image.Image], Image.Image]) -> Pixels:
    changed = edit(Image.fromarray(image.transpose(1, 2, 0)))
    return np.asarray(changed.resize((SIZE, SIZE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def compressed(image: Image.Image) -> Image.Image:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=50)
    return Image.open(stream)


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "copied": lambda image: image,
    "resized": lambda image: image.resize((37, 37), Image.Resampling.BICUBIC),
    "compressed": compressed,
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.1),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.7),
    "grey": lambda image: image.convert("L").convert("RGB"),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_copy_of_a_photo_is_found_among_others(
    people: Individuals, edit: str, few: bool
) -> None:
    others = people.images[: 100 if few else None]
    originals = [3, 17, 42, 64, 99]
    copies = np.stack([edited(others[row], EDITS[edit]) for row in originals])
    pairs = near_duplicates(np.concatenate([others, copies]))
    count = len(others)
    assert pairs.tolist() == [[row, count + i] for i, row in enumerate(originals)]
    assert near_duplicates(others, copies).tolist() == pairs.tolist()


def test_different_photos_of_a_person_are_not_joined(people: Individuals) -> None:
    assert near_duplicates(people.images).shape == (0, 2)


def test_images_without_texture_are_not_joined() -> None:
    shades = np.linspace(0, 255, 20).astype(np.uint8)
    plain = np.broadcast_to(shades[:, None, None, None], (20, 3, SIZE, SIZE))
    noise = np.random.default_rng(0).integers(0, 2, (20, 3, SIZE, SIZE), dtype=np.uint8)
    assert not len(near_duplicates(np.minimum(plain, 254) + noise))
    assert not len(near_duplicates(plain, plain[:, :, :1, :1]))


def test_hashes_lose_hardly_any_pair_that_comparing_all_pairs_finds(
    people: Individuals, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(1)
    blurred = [edited(image, lambda image: image.resize((18, 18))) for image in people.images[:300]]
    noise = random.normal(0, 6, (300, 3, SIZE, SIZE))
    copies = (np.stack(blurred) + noise).clip(0, 255).astype(np.uint8)
    by_hash = near_duplicates(people.images, copies)
    monkeypatch.setattr(module, "FEW", 10_000)
    all_pairs = near_duplicates(people.images, copies)
    assert len(all_pairs) >= 150
    assert {tuple(pair) for pair in by_hash.tolist()} <= {tuple(p) for p in all_pairs.tolist()}
    assert len(by_hash) >= 0.99 * len(all_pairs)


def test_many_copies_of_one_photo_are_connected_and_not_all_pairs(people: Individuals) -> None:
    copies = np.broadcast_to(people.images[:1], (700, 3, SIZE, SIZE))
    pairs = near_duplicates(people.images[1:], copies)
    assert len(pairs) <= 700 * module.WINDOW * 2
    count = len(people.images) - 1 + 700
    edges = coo_array((np.ones(len(pairs)), tuple(pairs.T)), (count, count))
    _, component = connected_components(edges, directed=False)
    assert len(np.unique(component[-700:])) == 1
    assert pairs.min() >= len(people.images) - 1


def test_the_fingerprint_changes_where_two_identities_share_a_photo_and_only_there(
    people: Individuals,
) -> None:
    unchanged = with_near_duplicates(people)
    assert unchanged.fingerprint == people.fingerprint
    assert unchanged.people is people.identities
    images = np.array(people.images)
    images[1] = images[0]
    within = with_near_duplicates(remade(people, images, "within"))
    assert within.fingerprint == "within"
    assert within.near_duplicates.tolist() == [[0, 1]]
    images[5] = images[0]
    across = with_near_duplicates(remade(people, images, "across"))
    assert across.fingerprint != "across"
    assert len(across.fingerprint) == len("across")
    assert people.identities[:8].tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert across.people[:8].tolist() == [0] * 8
    assert across.people[8:].tolist() == people.identities[8:].tolist()


def remade(people: Individuals, images: Pixels, fingerprint: str) -> Individuals:
    return Individuals(images, people.attributes, people.identities, fingerprint)


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("dataset", "across"),
    [
        ("celeba", set(IN_TWO_PLACES)),
        pytest.param("celeba", set(IN_TWO_PLACES), marks=pytest.mark.nightly),
        (
            "apascal",
            {("2008_006491.jpg (43, 101, 305, 240)", "2008_006549.jpg (41, 103, 303, 240)")},
        ),
        ("cub", set()),
    ],
)
def test_real_photos_under_two_identities_are_found_and_no_others(
    data_root: Path, dataset: str, across: set[tuple[str, str]]
) -> None:
    parameters = {"labels": "class"} if dataset == "cub" else {}
    individuals = build(DATASETS, dataset, parameters).load(data_root, SIZE)
    one, other = near_duplicates_of(individuals).T
    differ = individuals.identities[one] != individuals.identities[other]
    names = individuals.names
    found = {(names[a], names[b]) for a, b in zip(one[differ], other[differ], strict=True)}
    if dataset == "celeba" and len(individuals) != 16_000:
        assert across <= found
    else:
        assert found == across


@pytest.mark.real_data
def test_the_split_of_real_photos_separates_no_pair(data_root: Path) -> None:
    individuals = build(DATASETS, "celeba", {}).load(data_root, SIZE)
    individuals = with_near_duplicates(individuals)
    side = np.empty(len(individuals), dtype=int)
    for seed in range(20):
        split = split_individuals(individuals, "Mouth_Slightly_Open", 8, 0.45, 0.15, seed)
        for number, rows in enumerate([split.auxiliary, split.victims, *split.clients]):
            side[rows] = number
        one, other = side[individuals.near_duplicates].T
        assert (one == other).all()
