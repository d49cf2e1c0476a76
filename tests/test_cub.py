"""Reading CUB-200-2011, on a tiny copy in the official layout and a real one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from damage import (
    Damage,
    noise,
    remove,
    replace,
    replace_line,
    shrink,
    truncate,
    write,
    write_bytes,
)
from leakbench.base.errors import UsageError
from leakbench.base.registry import DATASETS
from leakbench.data.dataset import Individuals
from leakbench.data.split import split_individuals
from leakbench.datasets.cub import CUB

NAMES = [
    *("has_bill_shape::hooked", "has_bill_shape::cone", "has_wing_color::black"),
    *("has_bill_length::about_the_same_as_head", "has_bill_length::longer_than_head"),
    "has_bill_length::shorter_than_head",
]
IDS = [1, 2, 7, 2275, 9364]
SPECIES = [1, 1, 2, 2, 3]
BOXES = ["2.5 3.0 20.0 10.0", "0.0 0.0 10.0 10.0", "5 5 8 16", "10 2 20 20", "1.2 1.7 30 5"]
SAME, LONGER, SHORTER = [0, 0, 1, 1, 0, 0], [1, 0, 0, 0, 1, 0], [0, 1, 1, 0, 0, 1]
SEEN = [SAME, SHORTER, LONGER, SHORTER, SAME]
"""What the annotator saw in each image."""

CLASSES = ["10 90 20 30 30 40", "50 50 80 0 10 90", "0 0 49.9 20.5 29.5 50"]
"""Long beaks: yes, no, and yes by exactly half of the votes."""

IMAGE_LABELS = "attributes/image_attribute_labels.txt"
CLASS_LABELS = "attributes/class_attribute_labels_continuous.txt"


def label_text(seen: list[list[int]]) -> str:
    """Rows as in the official file: those of two images have a field more after the presence."""
    lines = []
    for image, row in zip(IDS, seen, strict=True):
        stray = " 0" if image in (2275, 9364) else ""
        for attribute, value in enumerate(row, start=1):
            lines.append(f"{image} {attribute} {value} 3{stray} 1.509")
    return "\n".join(lines) + "\n"


def image_of(image: int) -> str:
    return f"{SPECIES[IDS.index(image)]:03d}.Bird/Bird_{image}.jpg"


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a CUB of five birds of three species."""
    root = tmp_path_factory.mktemp("cub")
    folder = root / "CUB_200_2011"
    (folder / "attributes").mkdir(parents=True)
    for image in IDS:
        path = folder / "images" / image_of(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        noise(image, height=24, width=36).save(path, format="png")
    rows: dict[str, list[Any]] = {
        "images.txt": [image_of(image) for image in IDS],
        "image_class_labels.txt": SPECIES,
        "bounding_boxes.txt": BOXES,
    }
    for file, values in rows.items():
        text = "".join(f"{image} {value}\n" for image, value in zip(IDS, values, strict=True))
        (folder / file).write_text(text)
    names = "".join(f"{i} {name}\n" for i, name in enumerate(NAMES, start=1))
    (folder / "attributes" / "attributes.txt").write_text(names)
    (folder / IMAGE_LABELS).write_text(label_text(SEEN))
    (folder / CLASS_LABELS).write_text("\n".join(CLASSES) + "\n")
    return root


def load(root: Path, size: int = 16, **parameters: Any) -> Individuals:
    return CUB(**parameters).load(root, size)


def test_is_registered_by_name() -> None:
    assert DATASETS.get("cub") is CUB


def test_image_level_labels_are_read_with_their_stray_fields(official: Path) -> None:
    birds = load(official)
    for i, name in enumerate(NAMES):
        assert birds.attributes[name].tolist() == [bool(row[i]) for row in SEEN]
    assert birds.left_out == {}


def test_a_beak_is_one_at_least_as_long_as_the_head(official: Path) -> None:
    assert load(official).attributes["beak"].tolist() == [True, False, True, False, True]


def test_class_level_labels_are_the_votes_of_half_in_a_species(official: Path) -> None:
    birds = load(official, labels="class")
    assert birds.attributes["beak"].tolist() == [True, True, False, False, True]
    assert birds.attributes["has_bill_shape::hooked"].tolist() == [False, False, True, True, False]
    assert birds.attributes["has_wing_color::black"].tolist() == [False, False, True, True, False]


def test_class_level_labels_need_no_image_level_ones(root: Path) -> None:
    remove(IMAGE_LABELS)(root / "CUB_200_2011")
    assert len(load(root, labels="class")) == len(IDS)


@pytest.mark.parametrize("labels", ["image", "class"])
def test_another_beak_can_be_chosen(official: Path, labels: str) -> None:
    birds = load(official, labels=labels, beak="has_bill_shape::cone")
    cone = birds.attributes["has_bill_shape::cone"]
    known = {"image": [True, False, True], "class": [True, True, True, True]}[labels]
    assert birds.attributes["beak"].tolist() == cone.tolist() == known


def test_birds_whose_beak_nobody_judged_are_left_out(root: Path) -> None:
    hidden = [SAME, SHORTER, [1, 0, 1, 0, 0, 0], SHORTER, SAME]
    write(IMAGE_LABELS, label_text(hidden))(root / "CUB_200_2011")
    birds = load(root)
    assert birds.attributes["beak"].tolist() == [True, False, False, True]
    assert birds.identities.tolist() == [1, 1, 2, 3]
    assert birds.left_out == {"without any label of the beak": 1}


@pytest.mark.parametrize("labels", ["image", "class"])
def test_the_identity_is_the_species(official: Path, labels: str) -> None:
    assert load(official, labels=labels).identities.tolist() == SPECIES


def test_the_identity_is_the_image_where_asked_for(official: Path) -> None:
    assert load(official, identity="image").identities.tolist() == IDS


def test_the_picture_is_the_square_around_the_box(official: Path) -> None:
    """Image 7's box has 8×16 pixels from (5, 5): at 16 pixels, resizing changes nothing."""
    image = load(official, 16).images[2]
    pixels = np.asarray(noise(7, height=24, width=36))[5:21, 1:17]
    assert np.array_equal(image, pixels.transpose(2, 0, 1))


def test_rows_without_image_are_left_out(official: Path, root: Path) -> None:
    (root / "CUB_200_2011" / "images" / image_of(2)).unlink()
    birds = load(root)
    kept = [0, 2, 3, 4]
    assert birds.left_out == {"listed, but their image is absent": 1}
    assert birds.identities.tolist() == [SPECIES[i] for i in kept]
    assert np.array_equal(birds.images, load(official).images[kept])
    assert birds.attributes["beak"].tolist() == [True, True, False, True]


def test_the_whole_label_file_beside_a_subset_is_no_fault(root: Path) -> None:
    for file in ("images.txt", "image_class_labels.txt", "bounding_boxes.txt"):
        replace_line(file, 2, "")(root / "CUB_200_2011")
        text = (root / "CUB_200_2011" / file).read_text().replace("\n\n", "\n")
        (root / "CUB_200_2011" / file).write_text(text)
    birds = load(root)
    assert birds.identities.tolist() == [1, 2, 2, 3]
    assert birds.attributes["beak"].tolist() == [True, True, False, True]
    assert birds.left_out == {
        "attribute labels of images that images.txt does not list": len(NAMES)
    }


def test_attribute_names_may_lie_beside_the_folder(root: Path) -> None:
    (root / "CUB_200_2011" / "attributes" / "attributes.txt").rename(root / "attributes.txt")
    assert set(NAMES) < set(load(root).attributes)


def test_other_labels_are_not_taken_from_the_cache(root: Path) -> None:
    before = load(root)
    opposite = [[1 - value for value in row] for row in SEEN]
    write(IMAGE_LABELS, label_text(opposite))(root / "CUB_200_2011")
    after = load(root)
    assert after.attributes[NAMES[0]].tolist() == (~before.attributes[NAMES[0]]).tolist()
    assert after.fingerprint != before.fingerprint


def test_main_tasks_say_nothing_of_bills() -> None:
    for task in CUB().main_tasks().values():
        assert not any("bill" in name for name in task.split("+"))


IMAGE = f"images/{image_of(7)}"
BAD = {
    "missing image-level labels": (
        remove(IMAGE_LABELS),
        r"image_attribute_labels\.txt not found; .*--set dataset\.labels=class",
    ),
    "missing list of images": (remove("images.txt"), r"images\.txt not found; get it"),
    "missing classes": (remove("image_class_labels.txt"), r"image_class_labels\.txt not found"),
    "missing boxes": (remove("bounding_boxes.txt"), r"bounding_boxes\.txt not found; get it"),
    "missing attribute names": (remove("attributes/attributes.txt"), r"attributes\.txt not found"),
    "missing image folder": (
        lambda folder: shutil.rmtree(folder / "images"),
        r"folder .*images not found; get CUB_200_2011\.tgz",
    ),
    "no image": (
        lambda folder: [(folder / "images" / image_of(image)).unlink() for image in IDS],
        r"images has none of the listed images; get ",
    ),
    "image row of one field": (
        replace_line("images.txt", 3, "7"),
        r"images\.txt line 3: expected 2 fields, found 1; get the official file",
    ),
    "image that CUB has not": (
        replace("images.txt", "7 002", "11789 002"),
        r"images\.txt line 3: '11789' is not an image of CUB's 1 to 11788.*; get the official",
    ),
    "image twice": (replace("images.txt", "7 002", "2 002"), r"images\.txt line 3: '2' .*twice"),
    "image outside": (
        replace("images.txt", image_of(7), "../../../etc/passwd"),
        r"images\.txt lists the image .*outside .*use the official label file",
    ),
    "no class of an image": (
        replace_line("image_class_labels.txt", 5, ""),
        r"image_class_labels\.txt has no row for image 9364; get the official file",
    ),
    "class that is no number": (
        replace("image_class_labels.txt", "7 2", "7 Ani"),
        r"image_class_labels\.txt: the class of image 7 is 'Ani', not a number from 1; get ",
    ),
    "box that is no number": (
        replace("bounding_boxes.txt", "7 5 5", "7 5 x"),
        r"bounding_boxes\.txt: the box of image 7 is '5 x 8 16', not left, upper",
    ),
    "box without area": (
        replace("bounding_boxes.txt", "7 5 5 8", "7 5 5 0"),
        r"bounding_boxes\.txt: the box of image 7 is '5 5 0 16', not left, upper",
    ),
    "box outside the image": (
        replace("bounding_boxes.txt", "7 5 5 8", "7 5 5 40"),
        r"Bird_7\.jpg has 36×24 pixels, too few for the crop .*correct its box",
    ),
    "attributes not numbered": (
        replace("attributes/attributes.txt", "3 has", "4 has"),
        r"attributes\.txt does not number its attributes from 1.*; get the official file",
    ),
    "label row of four fields": (
        replace_line(IMAGE_LABELS, 3, "1 3 1 3"),
        r"image_attribute_labels\.txt line 3: expected an image.*; get the official file",
    ),
    "label row of seven fields": (
        replace_line(IMAGE_LABELS, 3, "1 3 1 3 0 0 1.5"),
        r"image_attribute_labels\.txt cannot be read .*line 3.*; get the official file",
    ),
    "blank label row": (
        replace_line(IMAGE_LABELS, 3, ""),
        r"image_attribute_labels\.txt line 3: expected an image.*; get the official file",
    ),
    "label of an image that CUB has not": (
        replace_line(IMAGE_LABELS, 3, "11789 3 1 3 1.5"),
        r"image_attribute_labels\.txt line 3: expected an image from 1 to 11788",
    ),
    "label of an attribute that CUB has not": (
        replace_line(IMAGE_LABELS, 3, "1 7 1 3 1.5"),
        r"image_attribute_labels\.txt line 3: .*an attribute from 1 to 6",
    ),
    "presence of 2": (
        replace_line(IMAGE_LABELS, 3, "1 3 2 3 1.5"),
        r"image_attribute_labels\.txt line 3: .*0 or 1",
    ),
    "presence that is no number": (
        replace_line(IMAGE_LABELS, 3, "1 3 yes 3 1.5"),
        r"image_attribute_labels\.txt line 3: .*0 or 1",
    ),
    "labels cut short": (
        replace(IMAGE_LABELS, "9364 6 0 3 0 1.509\n", ""),
        r"image_attribute_labels\.txt has 5 of 6 labels for image 9364; get the official file",
    ),
    "empty labels": (write(IMAGE_LABELS, ""), r"image_attribute_labels\.txt has 0 of 6 labels"),
    "labels that are no text": (
        write_bytes(IMAGE_LABELS, b"\x1f\x8b\x08\xff\n"),
        r"image_attribute_labels\.txt cannot be read",
    ),
    "truncated image": (truncate(IMAGE), r"Bird_7\.jpg cannot be decoded .*replace it or remove"),
    "image smaller than its box": (shrink(IMAGE, 6, 6), r"Bird_7\.jpg has 6×6 pixels, too few"),
}
BAD_CLASSES = {
    "missing": (remove(CLASS_LABELS), r"class_attribute_labels_continuous\.txt not found; get it"),
    "a value too few": (
        replace_line(CLASS_LABELS, 2, "50 50 80 0 10"),
        r"continuous\.txt line 2: expected 6 percentages, found 5 fields.*; get the official file",
    ),
    "no number": (
        replace_line(CLASS_LABELS, 2, "50 50 80 0 10 x"),
        r"continuous\.txt line 2: expected 6 percentages",
    ),
    "more than 100": (
        replace_line(CLASS_LABELS, 2, "50 50 80 0 10 101"),
        r"continuous\.txt line 2: expected 6 percentages",
    ),
    "a class too few": (
        replace(CLASS_LABELS, CLASSES[2], ""),
        r"image_class_labels\.txt names class 3, but .*has 2 rows; get the official files",
    ),
}


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_the_way_out(root: Path, damage: Damage, message: str) -> None:
    damage(root / "CUB_200_2011")
    with pytest.raises(UsageError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("damage", "message"), BAD_CLASSES.values(), ids=BAD_CLASSES.keys())
def test_bad_class_level_labels_are_named(root: Path, damage: Damage, message: str) -> None:
    damage(root / "CUB_200_2011")
    with pytest.raises(UsageError, match=message):
        load(root, labels="class")


def test_a_beak_of_unknown_attributes_is_named_with_those_of_bills(official: Path) -> None:
    message = r"names 'has_bill_shape::long', which is not an attribute.*: has_bill_shape::hooked, "
    with pytest.raises(UsageError, match=message):
        load(official, beak="has_bill_shape::cone+has_bill_shape::long")


def test_labels_that_judge_no_beak_are_refused(root: Path) -> None:
    write(IMAGE_LABELS, label_text([[1, 0, 1, 0, 0, 0]] * 5))(root / "CUB_200_2011")
    with pytest.raises(UsageError, match=r"no image has a label .*has_bill_length; choose others"):
        load(root)


@pytest.fixture(scope="module")
def real(data_root: Path) -> Individuals:
    if not (data_root / "CUB_200_2011").is_dir():
        pytest.skip(f"no CUB_200_2011/ in {data_root}")
    return CUB(labels="class").load(data_root, 32)


@pytest.mark.real_data
def test_the_real_birds_have_long_and_short_beaks(real: Individuals) -> None:
    assert 0.2 < real.attributes["beak"].mean() < 0.6
    assert real.images.std(axis=(1, 2, 3)).min() > 2
    assert len(set(real.attributes) - {"beak"}) == 312


@pytest.mark.real_data
def test_no_real_species_is_both_in_d_aux_and_among_victims(real: Individuals) -> None:
    split = split_individuals(real, CUB().main_tasks()["2-class"], 8, 0.4, 0.2, seed=0)
    groups = [set(real.identities[rows].tolist()) for rows in (split.auxiliary, split.victims)]
    assert all(groups)
    assert not groups[0] & groups[1]
