"""Reading aPascal, on a tiny copy in the official layout and a real one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from damage import Damage, noise, remove, replace, replace_line, shrink, truncate, write
from leakbench.base.errors import UsageError
from leakbench.base.registry import DATASETS
from leakbench.data.dataset import Individuals
from leakbench.data.split import split_individuals
from leakbench.datasets.apascal import APascal

NAMES = ["2D Boxy", "Wheel", "Row Wind"]
TRAIN = ["a.jpg car 1 1 16 8 0 1 1", "a.jpg person 2 2 9 9 0 0 0", "b.jpg boat 5 3 12 10 1 0 1"]
TEST = ["a.jpg bus 21 5 36 24 1 0 0", "c.jpg train 1 1 36 24 0 1 0"]
IMAGES = ("a.jpg", "b.jpg", "c.jpg")
TRAIN_FILE, TEST_FILE, NAME_FILE = (
    f"attribute_data/{name}.txt" for name in ("apascal_train", "apascal_test", "attribute_names")
)
FOLDER = "VOC2008/JPEGImages"


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with an aPascal of four vehicles in three images."""
    root = tmp_path_factory.mktemp("apascal")
    folder = root / "apascal"
    (folder / "attribute_data").mkdir(parents=True)
    (folder / FOLDER).mkdir(parents=True)
    for seed, file in enumerate(IMAGES):
        noise(seed, height=24, width=36).save(folder / FOLDER / file, format="png")
    for file, lines in ((TRAIN_FILE, TRAIN), (TEST_FILE, TEST), (NAME_FILE, NAMES)):
        (folder / file).write_text("\n".join(lines) + "\n")
    return root


def load(root: Path, size: int = 16) -> Individuals:
    return APascal().load(root, size)


def test_is_registered_by_name() -> None:
    assert DATASETS.get("apascal") is APascal


def test_each_vehicle_s_attributes_are_its_own(official: Path) -> None:
    attributes = load(official).attributes
    assert attributes["wheel"].tolist() == [True, False, False, True]
    assert attributes["Wheel"].tolist() == [True, False, False, True]
    assert attributes["2D_Boxy"].tolist() == [False, True, True, False]
    assert attributes["Row_Wind"].tolist() == [True, True, False, False]


def test_wheel_is_found_by_its_name(root: Path) -> None:
    write(NAME_FILE, "Wheel\nRow Wind\n2D Boxy\n")(root / "apascal")
    assert load(root).attributes["wheel"].tolist() == [False, True, True, False]


def test_objects_that_are_no_vehicles_are_left_out(official: Path) -> None:
    assert load(official).left_out == {"objects that are not vehicles": 1}


def test_objects_of_one_image_are_one_identity(official: Path) -> None:
    assert load(official).identities.tolist() == [0, 1, 0, 2]


def test_a_box_counts_from_one_and_holds_its_last_pixels(official: Path) -> None:
    """Box 5 3 12 10 has 8×8 pixels: at 8 pixels, resizing changes nothing."""
    pixels = np.asarray(noise(1, height=24, width=36))[2:10, 4:12]
    assert np.array_equal(load(official, 8).images[1], pixels.transpose(2, 0, 1))


def test_a_box_may_be_the_whole_image(official: Path) -> None:
    whole = noise(2, height=24, width=36).resize((16, 16), 2)
    assert np.array_equal(load(official).images[3], np.asarray(whole).transpose(2, 0, 1))


def test_rows_without_image_are_left_out(official: Path, root: Path) -> None:
    remove(f"{FOLDER}/b.jpg")(root / "apascal")
    vehicles = load(root)
    assert np.array_equal(vehicles.images, load(official).images[[0, 2, 3]])
    assert vehicles.attributes["wheel"].tolist() == [True, False, True]
    assert vehicles.left_out["listed, but their image is absent"] == 1


def test_another_box_changes_the_fingerprint(root: Path) -> None:
    before = load(root).fingerprint
    replace(TRAIN_FILE, "boat 5 3", "boat 6 3")(root / "apascal")
    assert load(root).fingerprint != before


IMAGE = f"{FOLDER}/b.jpg"
BAD = {
    "missing training list": (remove(TRAIN_FILE), r"apascal_train\.txt not found; get it from"),
    "missing test list": (remove(TEST_FILE), r"apascal_test\.txt not found; get it from"),
    "missing names": (remove(NAME_FILE), r"attribute_names\.txt not found; get it from"),
    "no wheel": (
        replace(NAME_FILE, "Wheel", "Tyre"),
        r"attribute_names\.txt does not name Wheel once.*; get the official file",
    ),
    "two wheels": (
        replace(NAME_FILE, "2D Boxy", "Wheel"),
        r"attribute_names\.txt does not name Wheel once.*; get the official file",
    ),
    "a value too few": (
        replace_line(TRAIN_FILE, 3, "b.jpg boat 5 3 12 10 1 0"),
        r"apascal_train\.txt line 3: expected 9 fields, found 8; get the official file",
    ),
    "a value of 2": (
        replace_line(TEST_FILE, 1, "a.jpg bus 21 5 36 24 1 2 0"),
        r"apascal_test\.txt line 1: expected an image, a class.*values of 0 or 1; get the off",
    ),
    "a box of words": (
        replace_line(TRAIN_FILE, 3, "b.jpg boat 5 x 12 10 1 0 1"),
        r"apascal_train\.txt line 3: expected an image, a class, four numbers of a box",
    ),
    "a box from 0": (
        replace(TRAIN_FILE, "boat 5 3", "boat 0 3"),
        r"apascal_train\.txt line 3: the box 0 3 12 10 of b\.jpg is not .*counted from 1; get",
    ),
    "a box turned round": (
        replace(TRAIN_FILE, "5 3 12 10", "12 3 5 10"),
        r"apascal_train\.txt line 3: the box 12 3 5 10 of b\.jpg is not left, upper, right",
    ),
    "a box outside the image": (
        replace(TRAIN_FILE, "5 3 12 10", "5 3 37 10"),
        r"b\.jpg has 36×24 pixels, too few for the crop .*correct its box in the label file",
    ),
    "an image outside": (
        replace(TRAIN_FILE, "b.jpg", "../../b.jpg"),
        r"lists the image '\.\./\.\./b\.jpg', which lies outside .*use the official label file",
    ),
    "no image folder": (
        lambda folder: shutil.rmtree(folder / FOLDER),
        r"folder .*JPEGImages not found; get attribute_data/ from",
    ),
    "no image": (
        lambda folder: [(folder / FOLDER / file).unlink() for file in IMAGES],
        r"JPEGImages has none of the listed images; get attribute_data/ from",
    ),
    "truncated image": (truncate(IMAGE), r"b\.jpg cannot be decoded .*replace it or remove it"),
    "small image": (shrink(IMAGE, 8, 8), r"b\.jpg has 8×8 pixels, too few for the crop"),
}


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_the_way_out(root: Path, damage: Damage, message: str) -> None:
    damage(root / "apascal")
    with pytest.raises(UsageError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def real(data_root: Path) -> Individuals:
    if not (data_root / "apascal").is_dir():
        pytest.skip(f"no apascal/ in {data_root}")
    return load(data_root, 32)


@pytest.mark.real_data
def test_every_real_box_lies_in_its_image(real: Individuals) -> None:
    assert len(real) > 1000
    assert 0.5 < real.attributes["wheel"].mean() < 0.8
    assert len(set(real.attributes) - {"wheel"}) == 64


@pytest.mark.real_data
def test_no_real_image_is_both_in_d_aux_and_among_victims(real: Individuals) -> None:
    split = split_individuals(real, APascal().main_tasks()["2-class"], 8, 0.45, 0.15, seed=0)
    groups = [set(real.identities[rows].tolist()) for rows in (split.auxiliary, split.victims)]
    assert not groups[0] & groups[1]
