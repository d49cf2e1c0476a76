"""Reading LFW in both layouts of its labels, on a tiny copy and on a real one."""

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
from leakbench.datasets.lfw import LFW

PEOPLE = [("Ann Lee", 1), ("Ann Lee", 2), ("Bob", 1), ("Jan de Wit", 3)]
FILES = [
    f"lfw-deepfunneled/{person.replace(' ', '_')}/{person.replace(' ', '_')}_{number:04d}.jpg"
    for person, number in PEOPLE
]
CSV = ["-1,1,1,1,natural", "-1,-1,1,-1,balanced", "1,1,-1,-1,natural", "1,-1,-1,1,natural"]
"""Male, Eyeglasses, Smiling, Young, group."""

COLUMNS = ["Male", "Youth", "Mouth Slightly Open", "Smiling", "Eyeglasses"]
SCORES = [[-1, 2, 1, 0.1, 3], [-1, 1, -1, 2, 1], [1, -1, 0, -2, -0.5], [2, 1, 5, -1, 1]]

CSV_FILE, SCORE_FILE = "labels.csv", "lfw_attributes.txt"


def score_text(columns: list[str], scores: list[list[float]]) -> str:
    rows = [
        "\t".join([person, str(number), *map(str, row)])
        for (person, number), row in zip(PEOPLE, scores, strict=True)
    ]
    header = "\t".join(["#", "person", "imagenum", *columns])
    return "\n".join(["# made for a test", header, *rows, ""])


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with an LFW of four images of three people."""
    root = tmp_path_factory.mktemp("lfw")
    folder = root / "lfw"
    for seed, file in enumerate(FILES):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        noise(seed, height=250, width=250).save(folder / file, format="png")
    rows = [f"{Path(file).name},{file},{values}" for file, values in zip(FILES, CSV, strict=True)]
    header = "image,path,Male,Eyeglasses,Smiling,Young,group"
    (folder / CSV_FILE).write_text("\n".join([header, *rows, ""]))
    (folder / SCORE_FILE).write_text(score_text(COLUMNS, SCORES))
    return root


def load(root: Path, size: int = 16, **parameters: Any) -> Individuals:
    return LFW(**parameters).load(root, size)


def test_is_registered_by_name() -> None:
    assert DATASETS.get("lfw") is LFW


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("gender", [False, False, True, True]),
        ("glasses", [True, False, True, False]),
        ("smile", [True, True, False, False]),
        ("young", [True, False, False, True]),
        ("Mouth_Slightly_Open", [True, False, False, True]),
    ],
)
def test_properties_are_the_csv_s_and_other_attributes_columbia_s(
    official: Path, name: str, values: list[bool]
) -> None:
    assert load(official).attributes[name].tolist() == values


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("gender", [False, False, True, True]),
        ("glasses", [True, True, False, True]),
        ("smile", [True, True, False, False]),
        ("young", [True, True, False, True]),
        ("Mouth_Slightly_Open", [True, False, False, True]),
    ],
)
def test_columbia_s_attributes_are_present_where_their_score_is_positive(
    official: Path, name: str, values: list[bool]
) -> None:
    assert load(official, labels="columbia").attributes[name].tolist() == values


def test_young_is_taken_before_youth(root: Path) -> None:
    columns = ["Young" if name == "Male" else name for name in COLUMNS]
    columns[-1] = "Male"
    columns.append("Eyeglasses")
    scores = [[*row, 1] for row in SCORES]
    write(SCORE_FILE, score_text(columns, scores))(root / "lfw")
    people = load(root, labels="columbia")
    assert people.attributes["young"].tolist() == [False, False, True, True]


def test_identities_are_names(official: Path) -> None:
    for labels in ("csv", "columbia"):
        assert load(official, labels=labels).identities.tolist() == [0, 0, 1, 2]


def test_the_csv_does_without_scores(root: Path) -> None:
    remove(SCORE_FILE)(root / "lfw")
    people = load(root)
    assert people.attributes["young"].tolist() == [True, False, False, True]
    assert "Mouth_Slightly_Open" not in people.attributes


def test_the_scores_do_without_a_csv(root: Path) -> None:
    remove(CSV_FILE)(root / "lfw")
    assert len(load(root, labels="columbia")) == len(FILES)


def test_images_show_the_face_crop(official: Path) -> None:
    """At the crop's own size of 188 pixels, resizing changes nothing."""
    for seed, image in enumerate(load(official, 188).images):
        pixels = np.asarray(noise(seed, height=250, width=250))[14:202, 31:219]
        assert np.array_equal(image, pixels.transpose(2, 0, 1))


def test_rows_without_image_are_left_out(official: Path, root: Path) -> None:
    (root / "lfw" / FILES[1]).unlink()
    people = load(root)
    assert people.identities.tolist() == [0, 1, 2]
    assert people.attributes["glasses"].tolist() == [True, True, False]
    assert np.array_equal(people.images, load(official).images[[0, 2, 3]])
    assert people.left_out == {"listed, but their image is absent": 1}


def test_rows_of_the_csv_without_scores_are_left_out(root: Path) -> None:
    replace(SCORE_FILE, "Bob\t1", "Bob\t2")(root / "lfw")
    people = load(root)
    assert people.attributes["gender"].tolist() == [False, False, True]
    assert people.attributes["Mouth_Slightly_Open"].tolist() == [True, False, True]
    assert people.left_out == {"not in lfw_attributes.txt": 1}


def test_a_selection_takes_its_group(official: Path) -> None:
    people = load(official, selection="natural")
    assert people.attributes["smile"].tolist() == [True, False, False]
    assert people.left_out == {"not in selection 'natural'": 1}


def test_any_change_of_a_label_changes_the_fingerprint(root: Path) -> None:
    before = load(root).fingerprint
    replace(CSV_FILE, CSV[2], "1,1,-1,1,natural")(root / "lfw")
    assert load(root).fingerprint != before


BAD = {
    "missing csv": (remove(CSV_FILE), r"labels\.csv not found; .*--set dataset\.labels=columbia"),
    "missing column": (
        replace(CSV_FILE, "Smiling", "Grin"),
        r"labels\.csv has no column Smiling in its first line; it needs path, Male",
    ),
    "empty csv": (write(CSV_FILE, ""), r"labels\.csv has no column path, Male"),
    "value of 0": (
        replace(CSV_FILE, CSV[1], "-1,0,1,-1,balanced"),
        r"labels\.csv line 3: expected a path and values of 1 or -1.*'0'.*; correct or remove",
    ),
    "row cut short": (
        replace_line(CSV_FILE, 3, "Ann_Lee_0002.jpg"),
        r"labels\.csv line 3: expected a path and values",
    ),
    "quotation mark that is not closed": (
        replace(CSV_FILE, FILES[1], f'"{FILES[1]}'),
        r"labels\.csv line \d+: unexpected end of data; correct the row, e\.g\. a quotation mark",
    ),
    "image twice, with other values": (
        replace(CSV_FILE, FILES[1], FILES[0]),
        r"labels\.csv line 3: .*_0001\.jpg is listed before with other values; remove one",
    ),
    "csv that is no text": (write_bytes(CSV_FILE, b"\xff\xfe\x81"), r"labels\.csv cannot be read"),
    "image outside": (
        replace(CSV_FILE, FILES[2], "../../../etc/passwd"),
        r"lists the image '\.\./.*outside .*use the official label file",
    ),
    "two score files": (
        write("lfw_attributes_2.txt", ""),
        r"has lfw_attributes\.txt and lfw_attributes_2\.txt; keep one of them",
    ),
    "no images": (
        lambda folder: shutil.rmtree(folder / "lfw-deepfunneled"),
        r"folder .*lfw-deepfunneled not found; get lfw-deepfunneled from",
    ),
    "other images": (
        lambda folder: [(folder / file).unlink() for file in FILES],
        r"lfw-deepfunneled has none of the listed images; get ",
    ),
    "truncated image": (truncate(FILES[2]), r"Bob_0001\.jpg cannot be decoded .*replace it or"),
    "small image": (shrink(FILES[2], 200, 250), r"Bob_0001\.jpg has 200×250 pixels, too few"),
}
BAD_SCORES = {
    "missing": (remove(SCORE_FILE), r"lfw_attributes\*\.txt not found; .*dataset\.labels=csv"),
    "no header": (
        replace_line(SCORE_FILE, 2, "Male\tYouth"),
        r"lfw_attributes\.txt line 2 does not name the columns person, imagenum.*; get the off",
    ),
    "no column": (
        replace(SCORE_FILE, "Youth", "Senior"),
        r"lfw_attributes\*\.txt has no column Young or Youth; get the official file",
    ),
    "a score too few": (
        replace_line(SCORE_FILE, 4, "Ann Lee\t2\t1\t1\t1\t1"),
        r"lfw_attributes\.txt line 4: expected a person, a number and 5 scores.*found 6 fields",
    ),
    "score that is no number": (
        replace_line(SCORE_FILE, 4, "Ann Lee\t2\t1\t1\t1\t1\tx"),
        r"lfw_attributes\.txt line 4: expected",
    ),
    "score that is nan": (
        replace_line(SCORE_FILE, 4, "Ann Lee\t2\t1\t1\t1\t1\tnan"),
        r"lfw_attributes\.txt line 4: expected",
    ),
    "image twice, with other values": (
        replace_line(SCORE_FILE, 4, "Ann Lee\t1\t1\t1\t1\t1\t1"),
        r"lfw_attributes\.txt line 4: .*_0001\.jpg is listed before with other values",
    ),
    "blank row": (replace_line(SCORE_FILE, 4, ""), r"lfw_attributes\.txt line 4: expected"),
}


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_the_way_out(root: Path, damage: Damage, message: str) -> None:
    damage(root / "lfw")
    with pytest.raises(UsageError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("damage", "message"), BAD_SCORES.values(), ids=BAD_SCORES.keys())
def test_bad_scores_are_named_with_the_way_out(root: Path, damage: Damage, message: str) -> None:
    damage(root / "lfw")
    with pytest.raises(UsageError, match=message) as caught:
        load(root, labels="columbia")
    assert "\n" not in str(caught.value)


def test_a_selection_of_columbia_s_labels_is_refused(official: Path) -> None:
    with pytest.raises(UsageError, match=r"dataset\.selection of lfw is a column of labels\.csv"):
        load(official, labels="columbia", selection="natural")


@pytest.fixture(scope="module")
def real_root(data_root: Path) -> Path:
    if not (data_root / "lfw").is_dir():
        pytest.skip(f"no lfw/ in {data_root}")
    return data_root


@pytest.mark.real_data
def test_the_real_faces_have_both_values_of_each_property(real_root: Path) -> None:
    people = load(real_root, 32)
    for name in LFW.properties:
        assert 0.1 < people.attributes[name].mean() < 0.9
    assert people.images.std(axis=(1, 2, 3)).min() > 5
    assert len(np.unique(people.identities)) > 1000


@pytest.mark.real_data
def test_both_layouts_of_real_labels_mostly_agree(real_root: Path) -> None:
    csv, columbia = load(real_root, 32), load(real_root, 32, labels="columbia")
    assert len(csv) == len(columbia)
    assert csv.attributes["gender"].mean() == pytest.approx(
        columbia.attributes["gender"].mean(), abs=0.05
    )
