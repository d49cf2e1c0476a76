"""Reading LAD's vehicles, on a tiny copy in the official format."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from damage import Damage, noise, remove, replace, replace_line, truncate, write
from leakbench.base.errors import UsageError
from leakbench.base.registry import DATASETS
from leakbench.data.dataset import Individuals
from leakbench.datasets.lad import LAD
from leakbench.evaluation.measuring import measure
from leakbench.evaluation.preparation import prepare
from leakbench.experiments.cell import Cell
from leakbench.experiments.resolved_cell import ResolvedCell

ATTRIBUTES = [
    "Attr_A_001, color: is brown, 棕色",
    "Attr_A_002, habit: runs a wheel, 跑轮",
    "Attr_V_181, color: is white, 白色",
    "Attr_V_182, component: has Wheels, 有轮子",
    "Attr_V_183, component: has a steering wheel, 有方向盘",
]
LABELS = [
    "Label_V_01, images/V/car/1.jpg, [  0  0  1  1  1 ]",
    "Label_A_01, images/A/cat/1.jpg, [  1  1  0  0  0 ]",
    "Label_V_02, images/V/boat/1.jpg, [  0  0  1  0  1 ]",
    "Label_V_02, images/V/boat/2.jpg, [  0  0  0  0  0 ]",
]
FILES = [f"images/V/{name}.jpg" for name in ("car/1", "boat/1", "boat/2")]
NAME_FILE, LABEL_FILE = (f"LAD_annotations/{name}.txt" for name in ("attribute_list", "attributes"))


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a LAD of three vehicles and a cat without image."""
    root = tmp_path_factory.mktemp("lad")
    folder = root / "LAD"
    (folder / "LAD_annotations").mkdir(parents=True)
    (folder / NAME_FILE).write_text("\n".join(ATTRIBUTES) + "\n", encoding="utf-8")
    (folder / LABEL_FILE).write_text("\n".join(LABELS) + "\n")
    for seed, file in enumerate(FILES):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        noise(seed, height=16, width=16).save(folder / file, format="png")
    return root


def load(root: Path, size: int = 16, **parameters: Any) -> Individuals:
    return LAD(**parameters).load(root, size)


def test_is_registered_by_name() -> None:
    assert DATASETS.get("lad") is LAD


def test_wheel_is_found_by_its_english_name_among_vehicles(official: Path) -> None:
    attributes = load(official).attributes
    assert attributes["wheel"].tolist() == [True, False, False]
    assert attributes["Attr_V_181"].tolist() == [True, True, False]
    assert "Attr_A_001" not in attributes


def test_another_wheel_can_be_chosen_by_id(official: Path) -> None:
    assert load(official, wheel="Attr_V_183").attributes["wheel"].tolist() == [True, True, False]


def test_only_vehicles_are_taken_and_each_is_an_identity(official: Path) -> None:
    vehicles = load(official)
    assert vehicles.identities.tolist() == [0, 1, 2]
    assert vehicles.left_out == {"images without a vehicle": 1}


def test_images_are_whole(official: Path) -> None:
    for seed, image in enumerate(load(official).images):
        pixels = np.asarray(noise(seed, height=16, width=16))
        assert np.array_equal(image, pixels.transpose(2, 0, 1))


def test_rows_without_image_are_left_out(official: Path, root: Path) -> None:
    remove(FILES[1])(root / "LAD")
    vehicles = load(root)
    assert np.array_equal(vehicles.images, load(official).images[[0, 2]])
    assert vehicles.attributes["Attr_V_181"].tolist() == [True, False]
    assert vehicles.left_out["listed, but their image is absent"] == 1


BAD = {
    "missing names": (remove(NAME_FILE), r"attribute_list\.txt not found; get it from"),
    "missing labels": (remove(LABEL_FILE), r"attributes\.txt not found; get it from"),
    "two wheels": (
        replace(NAME_FILE, "a steering wheel", "a spare wheel"),
        r"attribute_list\.txt has 2 attributes of vehicles that could be the property wheel, among "
        r"Attr_V_182 \(component: has Wheels\); Attr_V_183 \(component: has a spare wheel\); "
        r"choose one with --set dataset\.wheel=ID",
    ),
    "no wheel but for steering": (
        replace(NAME_FILE, "has Wheels", "has sails"),
        r"attribute_list\.txt has 0 attributes .*among Attr_V_183 \(component: has a steering",
    ),
    "name row of two fields": (
        replace_line(NAME_FILE, 3, "Attr_V_181, color: is white"),
        r"attribute_list\.txt line 3: expected an id of its own, an English and a Chinese name",
    ),
    "id twice": (
        replace(NAME_FILE, "Attr_V_182", "Attr_V_181"),
        r"attribute_list\.txt line 4: expected an id of its own.*; get the official file",
    ),
    "a value too few": (
        replace_line(LABEL_FILE, 3, "Label_V_02, images/V/boat/1.jpg, [  0  0  1  0 ]"),
        r"attributes\.txt line 3: .*5 values of 0 or 1 in brackets, found 4 values; get the off",
    ),
    "a value of 2": (
        replace_line(LABEL_FILE, 3, "Label_V_02, images/V/boat/1.jpg, [  0  0  1  0  2 ]"),
        r"attributes\.txt line 3: expected a class, an image and 5 values of 0 or 1",
    ),
    "an image twice": (
        replace_line(LABEL_FILE, 4, "Label_V_01, images/V/car/1.jpg, [  0  0  1  1  1 ]"),
        r"attributes\.txt line 4: images/V/car/1\.jpg is listed in line 1 already; remove one",
    ),
    "another separator": (
        replace_line(LABEL_FILE, 3, "Label_V_02;images/V/boat/1.jpg;[  0  0  1  0  1 ]"),
        r"attributes\.txt line 3: expected a class, an image and 5 values",
    ),
    "an image outside": (
        replace(LABEL_FILE, "images/V/car/1.jpg", "../1.jpg"),
        r"attributes\.txt lists the image '\.\./1\.jpg', which lies outside",
    ),
    "no image folder": (
        lambda folder: shutil.rmtree(folder / "images"),
        r"folder .*images not found; get LAD_annotations/ and images/ from",
    ),
    "no image": (
        lambda folder: [(folder / file).unlink() for file in FILES],
        r"images has none of the listed images; get LAD_annotations/ and",
    ),
    "names that are no text": (
        lambda folder: (folder / NAME_FILE).write_text(ATTRIBUTES[0], encoding="gb2312"),
        r"attribute_list\.txt cannot be read",
    ),
    "truncated image": (truncate(FILES[1]), r"1\.jpg cannot be decoded .*replace it or remove it"),
}


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_the_way_out(root: Path, damage: Damage, message: str) -> None:
    damage(root / "LAD")
    with pytest.raises(UsageError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("wheel", ["Attr_V_999", "Attr_A_002"])
def test_a_wheel_that_no_vehicle_can_have_is_named(official: Path, wheel: str) -> None:
    with pytest.raises(UsageError, match=rf"dataset\.wheel is '{wheel}', which .*does not list"):
        load(official, wheel=wheel)


def test_a_set_in_the_format_is_measured_end_to_end(tmp_path: Path) -> None:
    """Vehicles with wheels are bright, the others dark: the oracle reads them off."""
    folder = tmp_path / "LAD"
    (folder / "LAD_annotations").mkdir(parents=True)
    write(NAME_FILE, "\n".join(ATTRIBUTES))(folder)
    rows, random = [], np.random.default_rng(0)
    for i, (white, wheel) in enumerate(random.integers(0, 2, (120, 2))):
        file = f"images/V/{i}.png"
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        noise(i, height=16, width=16).point(lambda v, w=wheel: v // 2 + 120 * int(w)).save(
            folder / file
        )
        rows.append(f"Label_V_01, {file}, [  0  0  {white}  {wheel}  0 ]")
    write(LABEL_FILE, "\n".join(rows))(folder)
    cell = Cell(
        dataset="lad",
        properties=("wheel",),
        main_task="Attr_V_181",
        image_size=16,
        model_parameters={"width": 4},
        rounds=2,
        attack="oracle",
        batch_size=1,
        individuals=16,
        grant=("model", "update", "auxiliary", "labels", "features"),
    )
    context = prepare(cell.setup, tmp_path, "cpu", lambda message: None)
    metrics = measure(ResolvedCell.of(cell), [context], lambda share: None).metrics
    assert metrics is not None
    assert metrics.properties["wheel"].balanced_accuracy.value == 1
