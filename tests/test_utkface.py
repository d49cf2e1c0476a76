"""Reading UTKFace, whose labels are file names, on a tiny and on a real one."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from damage import Damage, noise, shrink, truncate, write_bytes
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import DATASETS
from leakbench.data.dataset import Individuals
from leakbench.datasets.utkface import UTKFace

DATE = "20170109150557335.jpg.chip.jpg"
FILES = [f"{labels}_{DATE}" for labels in ("100_0_0", "1_1_2", "39_1_4", "40_0_1")]
"""In the order of their names."""


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a UTKFace of four images."""
    root = tmp_path_factory.mktemp("utkface")
    folder = root / "utkface" / "UTKFace"
    folder.mkdir(parents=True)
    for seed, file in enumerate(FILES):
        noise(seed, height=200, width=200).save(folder / file, format="png")
    return root


def load(root: Path, size: int = 16, **parameters: Any) -> Individuals:
    return UTKFace(**parameters).load(root, size)


def test_is_registered_by_name() -> None:
    assert DATASETS.get("utkface") is UTKFace


def test_labels_are_read_off_the_names(official: Path) -> None:
    attributes = load(official).attributes
    assert attributes["gender"].tolist() == [True, False, False, True]
    assert attributes["young"].tolist() == [False, True, True, False]
    assert attributes["white"].tolist() == [True, False, False, False]
    assert attributes["asian"].tolist() == [False, True, False, False]
    assert attributes["other_race"].tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    ("years", "young"),
    [(30, [False, True, False, False]), (41, [False, True, True, True])],
)
def test_the_age_of_the_young_can_be_chosen(official: Path, years: int, young: list[bool]) -> None:
    assert load(official, young_below=years).attributes["young"].tolist() == young


@pytest.mark.parametrize("age", [0, 121])
def test_an_impossible_age_of_the_young_is_refused(age: int) -> None:
    with pytest.raises(UsageError, match="young_below"):
        build(DATASETS, "utkface", {"young_below": age})


def test_each_image_is_an_identity(official: Path) -> None:
    assert load(official).identities.tolist() == [0, 1, 2, 3]


def test_images_are_whole(official: Path) -> None:
    for seed, image in enumerate(load(official, 200).images):
        pixels = np.asarray(noise(seed, height=200, width=200))
        assert np.array_equal(image, pixels.transpose(2, 0, 1))


def test_matched_images_are_framed_by_their_border(official: Path) -> None:
    """At the frame's own size of 334 pixels, resizing changes nothing."""
    image = load(official, 334, framing="matched").images[0]
    pixels = np.asarray(noise(0, height=200, width=200)).transpose(2, 0, 1)
    assert np.array_equal(image[:, 100:300, 67:267], pixels)
    assert (image[:, 300:, 67:267] == pixels[:, -1:]).all()


@pytest.mark.parametrize("name", [f"39_1_{DATE}", "61_3_20170109150557335.jpg.chip.jpg"])
def test_names_without_all_labels_are_left_out(official: Path, root: Path, name: str) -> None:
    noise(9, height=200, width=200).save(root / "utkface" / "UTKFace" / name, format="png")
    faces = load(root)
    assert np.array_equal(faces.images, load(official).images)
    assert faces.left_out == {"name lacks age, gender or race": 1}


def test_other_files_are_ignored(official: Path, root: Path) -> None:
    write_bytes("Thumbs.db", b"no image")(root / "utkface" / "UTKFace")
    assert load(root).fingerprint == load(official).fingerprint


@pytest.mark.parametrize(
    "name", [f"55_0_0_20170116232725357{end}" for end in ("jpg.chip.jpg", " .jpg", ".pg.chip.jpg")]
)
def test_official_slips_of_the_pen_are_read(root: Path, name: str) -> None:
    noise(9, height=200, width=200).save(root / "utkface" / "UTKFace" / name, format="png")
    assert len(load(root)) == len(FILES) + 1


def rename(name: str) -> Damage:
    return lambda folder: (folder / FILES[2]).rename(folder / name)


BAD = {
    "gender of 2": (rename(f"39_2_4_{DATE}"), r"39_2_4_.*is not named .*gender 0 or 1.*rename"),
    "race of 5": (rename(f"39_1_5_{DATE}"), r"39_1_5_.*is not named .*race 0 to 4; rename"),
    "age of 400": (rename(f"400_1_4_{DATE}"), r"400_1_4_.*is not named .*an age up to 120"),
    "no labels": (rename("me.jpg"), r"UTKFace/me\.jpg is not named AGE_GENDER_RACE_DATE\.jpg"),
    "no number": (rename(f"39_f_4_{DATE}"), r"39_f_4_.*is not named .*; rename or remove it"),
    "no folder": (shutil.rmtree, r"folder .*UTKFace not found; get the aligned and cropped faces"),
    "no image": (
        lambda folder: [(folder / file).unlink() for file in FILES],
        r"UTKFace has no image named AGE_GENDER_RACE_DATE\.jpg; get the aligned",
    ),
    "truncated image": (truncate(FILES[2]), r"39_1_4_.* cannot be decoded .*replace it or remove"),
    "text as an image": (write_bytes(FILES[2], b"404"), r"39_1_4_.* cannot be decoded"),
    "small image": (shrink(FILES[2], 100, 200), r"39_1_4_.* has 100×200 pixels, too few"),
}


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_the_way_out(root: Path, damage: Damage, message: str) -> None:
    damage(root / "utkface" / "UTKFace")
    with pytest.raises(UsageError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_a_property_that_the_names_do_not_hold_is_refused(official: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown property 'smile'; this data set has: gender, y"):
        load(official).attribute("smile", "property")


@pytest.fixture(scope="module")
def real_root(data_root: Path) -> Path:
    if not (data_root / "utkface").is_dir():
        pytest.skip(f"no utkface/ in {data_root}")
    return data_root


@pytest.mark.real_data
def test_every_real_name_is_read(real_root: Path) -> None:
    faces = load(real_root, 32)
    names = [path.name.split("_") for path in (real_root / "utkface" / "UTKFace").iterdir()]
    assert len(faces) + sum(faces.left_out.values()) == len(names)
    men = sum(fields[1] == "0" for fields in names if len(fields) == 4)
    assert faces.attributes["gender"].sum() == men
    assert 0.2 < faces.attributes["young"].mean() < 0.8


@pytest.mark.real_data
def test_a_matched_real_face_is_smaller(real_root: Path) -> None:
    """Shrunk to 200 of 334 pixels, the whole face is found again inside the matched one."""
    whole, matched = load(real_root, 60), load(real_root, 100, framing="matched")
    face = np.asarray(Image.fromarray(whole.images[0].transpose(1, 2, 0)), dtype=float)
    inside = matched.images[0].transpose(1, 2, 0)[30:90, 20:80].astype(float)
    assert np.corrcoef(face.ravel(), inside.ravel())[0, 1] > 0.98
