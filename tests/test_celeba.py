"""Reading CelebA, on a tiny copy in the official layout and on the real one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import leakbench.data.images
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
from leakbench.datasets.celeba import CelebA
from leakbench.evaluation.loading import load_individuals
from leakbench.experiments.cell import Setup

HEADER = (
    "5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose "
    "Black_Hair Blond_Hair Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee "
    "Gray_Hair Heavy_Makeup High_Cheekbones Male Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard "
    "Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks Sideburns Smiling Straight_Hair "
    "Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace Wearing_Necktie Young"
)
NAMES = HEADER.split()
FILES = [f"{number:06d}.jpg" for number in range(1, 13)]
IDENTITIES = [700, 700, 700, 9, 9, 12, 12, 12, 30, 30, 41, 41]
PRESENT = np.random.default_rng(1).random((len(FILES), len(NAMES))) < 0.5
ONE_LABEL = np.arange(PRESENT.size).reshape(PRESENT.shape) == 100

ATTRIBUTE_FILE = "list_attr_celeba.txt"
IDENTITY_FILE = "identity_CelebA.txt"
IMAGES = "img_align_celeba"
BAD_IMAGE = f"{IMAGES}/{FILES[2]}"


def attribute_text(files: list[str], names: list[str], present: NDArray[np.bool_]) -> str:
    rows = [
        f"{file} {' '.join(f'{1 if value else -1:2d}' for value in row)}\n"
        for file, row in zip(files, present, strict=True)
    ]
    return f"{len(files)}\n{' '.join(names)} \n{''.join(rows)}"


@pytest.fixture(scope="session")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data root with a CelebA of twelve images of five people."""
    root = tmp_path_factory.mktemp("official")
    folder = root / "celeba"
    (folder / IMAGES).mkdir(parents=True)
    for seed, file in enumerate(FILES):
        noise(seed, 218, 178).save(folder / IMAGES / file)
    (folder / ATTRIBUTE_FILE).write_text(attribute_text(FILES, NAMES, PRESENT))
    people = zip(FILES, IDENTITIES, strict=True)
    (folder / IDENTITY_FILE).write_text("".join(f"{file} {person}\n" for file, person in people))
    return root


def load(root: Path, size: int = 16) -> Individuals:
    return CelebA().load(root, size)


def test_is_registered_by_name() -> None:
    assert DATASETS.get("celeba") is CelebA


@pytest.mark.parametrize(
    ("property_name", "column"),
    [("gender", "Male"), ("glasses", "Eyeglasses"), ("smile", "Smiling"), ("young", "Young")],
)
def test_a_property_is_its_official_attribute(
    official: Path, property_name: str, column: str
) -> None:
    expected = PRESENT[:, NAMES.index(column)]
    attributes = load(official).attributes
    assert attributes[property_name].tolist() == expected.tolist()
    assert attributes[column].tolist() == expected.tolist()


def test_all_forty_attributes_are_read_by_name(root: Path) -> None:
    shuffled = np.random.default_rng(2).permutation(len(NAMES))
    text = attribute_text(FILES, [NAMES[i] for i in shuffled], PRESENT[:, shuffled])
    (root / "celeba" / ATTRIBUTE_FILE).write_text(text)
    attributes = load(root).attributes
    assert CelebA().attribute_names(root) == (*attributes,)
    for i, name in enumerate(NAMES):
        assert attributes[name].dtype == np.bool_
        assert attributes[name].tolist() == PRESENT[:, i].tolist()


def test_identities_are_the_official_numbers(official: Path) -> None:
    assert load(official).identities.tolist() == IDENTITIES


def test_identities_are_found_by_file_and_not_by_line(root: Path) -> None:
    file = root / "celeba" / IDENTITY_FILE
    file.write_text("\n".join(reversed(file.read_text().splitlines())))
    assert load(root).identities.tolist() == IDENTITIES


@pytest.mark.parametrize("size", [16, 32])
def test_images_have_the_size_asked_for(official: Path, size: int) -> None:
    images = load(official, size).images
    assert images.shape == (len(FILES), 3, size, size)
    assert images.dtype == np.uint8


def test_images_show_the_face_crop_in_the_order_of_the_file(official: Path) -> None:
    """At the crop's own size of 178 pixels, resizing changes nothing."""
    images = load(official, 178).images
    for file, image in zip(FILES, images, strict=True):
        pixels = np.asarray(Image.open(official / "celeba" / IMAGES / file).convert("RGB"))
        assert np.array_equal(image, pixels[20:198].transpose(2, 0, 1))


def test_a_smaller_image_is_the_whole_crop_shrunk(root: Path) -> None:
    halves = np.zeros((218, 178, 3), dtype=np.uint8)
    halves[:20], halves[198:] = 255, 255
    halves[:, 89:, 0] = 200
    for file in FILES:
        Image.fromarray(halves).save(root / "celeba" / IMAGES / file, format="png")
    within = load(root, 16).images[0][:, 1:-1]
    assert (within[0, :, :7] == 0).all()
    assert (within[0, :, 9:] == 200).all()
    assert (within[1:] == 0).all()


def test_rows_without_image_are_left_out(official: Path, root: Path) -> None:
    for missing in (FILES[0], FILES[4]):
        (root / "celeba" / IMAGES / missing).unlink()
    kept = [i for i in range(len(FILES)) if i not in (0, 4)]
    people = load(root)
    assert people.identities.tolist() == [IDENTITIES[i] for i in kept]
    assert people.left_out == {"listed, but their image is absent": 2}
    assert people.attributes["Bald"].tolist() == PRESENT[kept, NAMES.index("Bald")].tolist()
    assert np.array_equal(people.images, load(official).images[kept])


def test_images_without_row_are_ignored(official: Path, root: Path) -> None:
    noise(99, 218, 178).save(root / "celeba" / IMAGES / "999999.jpg")
    (root / "celeba" / IMAGES / "Thumbs.db").write_bytes(b"no image")
    assert np.array_equal(load(root).images, load(official).images)


def test_identities_of_other_images_need_not_be_complete(root: Path) -> None:
    (root / "celeba" / IMAGES / FILES[3]).unlink()
    replace(IDENTITY_FILE, f"{FILES[3]} 9\n", "")(root / "celeba")
    assert len(load(root)) == len(FILES) - 1


def test_an_image_is_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> NDArray[np.uint8]:
        raise AssertionError(arguments)

    first = np.array(load(root).images)
    monkeypatch.setattr(leakbench.data.images, "_decode", never)
    assert np.array_equal(load(root).images, first)


def test_another_size_is_not_taken_from_the_cache(official: Path) -> None:
    assert load(official, 16).images.shape != load(official, 24).images.shape


def test_a_changed_image_is_decoded_again(root: Path) -> None:
    before = np.array(load(root).images)
    noise(99, 218, 178).save(root / "celeba" / IMAGES / FILES[5])
    after = load(root).images
    assert [i for i in range(len(FILES)) if not np.array_equal(before[i], after[i])] == [5]


def test_an_unchanged_data_set_keeps_its_fingerprint(official: Path, root: Path) -> None:
    assert load(official).fingerprint == load(root).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            write(ATTRIBUTE_FILE, attribute_text(FILES, NAMES, PRESENT ^ ONE_LABEL)), id="one label"
        ),
        pytest.param(replace(IDENTITY_FILE, f"{FILES[3]} 9", f"{FILES[3]} 8"), id="identities"),
        pytest.param(lambda folder: (folder / IMAGES / FILES[7]).unlink(), id="fewer images"),
        pytest.param(
            lambda folder: Image.new("RGB", (178, 218)).save(folder / IMAGES / FILES[7]),
            id="another image",
        ),
        pytest.param(
            replace(ATTRIBUTE_FILE, "Male Mouth_Slightly_Open", "Mouth_Slightly_Open Male"),
            id="names of the labels",
        ),
    ],
)
def test_any_change_of_content_changes_the_fingerprint(root: Path, change: Damage) -> None:
    before = load(root).fingerprint
    change(root / "celeba")
    assert load(root).fingerprint != before


def test_another_image_of_the_same_size_changes_the_fingerprint(root: Path) -> None:
    path = root / "celeba" / IMAGES / FILES[0]
    noise(1, 218, 178).save(path, format="bmp")
    before = load(root).fingerprint
    noise(2, 218, 178).save(path, format="bmp")
    os.utime(path, ns=(0, 0))
    assert load(root).fingerprint != before


@pytest.mark.parametrize(("selection", "kept"), [("natural", [0, 1, 5]), ("balanced", [3, 4])])
def test_a_selection_takes_its_group_of_selection_csv(
    root: Path, selection: str, kept: list[int]
) -> None:
    rows = [f"{FILES[i]},natural" for i in (0, 1, 5)] + [f"{FILES[i]},balanced" for i in (3, 4)]
    (root / "celeba" / "selection.csv").write_text("\n".join(["image_id,group", *rows, ""]))
    people = CelebA(selection=selection).load(root, 16)  # type: ignore[arg-type]
    assert people.identities.tolist() == [IDENTITIES[i] for i in kept]
    assert people.attributes["smile"].tolist() == PRESENT[kept, NAMES.index("Smiling")].tolist()


def test_a_selection_without_selection_csv_is_refused(official: Path) -> None:
    with pytest.raises(UsageError, match=r"selection\.csv not found; get "):
        CelebA(selection="natural").load(official, 16)


def test_main_tasks_are_made_of_official_attributes_other_than_the_properties() -> None:
    for task in CelebA().main_tasks().values():
        assert set(task.split("+")) <= set(NAMES) - {"Male", "Eyeglasses", "Smiling", "Young"}


def remove_all_images(folder: Path) -> None:
    for file in FILES:
        (folder / IMAGES / file).unlink()


ROW = " ".join(["1"] * 40)
BAD = {
    "missing attribute file": (
        remove(ATTRIBUTE_FILE),
        r"list_attr_celeba\.txt not found; get ",
    ),
    "missing identity file": (
        remove(IDENTITY_FILE),
        r"identity_CelebA\.txt not found; get ",
    ),
    "missing image folder": (
        lambda folder: shutil.rmtree(folder / IMAGES),
        r"img_align_celeba not found; get the aligned images",
    ),
    "no image": (remove_all_images, r"img_align_celeba has none .*unpack img_align_celeba\.zip"),
    "empty attribute file": (write(ATTRIBUTE_FILE, ""), r"list_attr_celeba\.txt does not begin"),
    "no count": (
        replace_line(ATTRIBUTE_FILE, 1, "many"),
        r"list_attr_celeba\.txt does not begin.*get the official file",
    ),
    "no column of a property": (
        replace(ATTRIBUTE_FILE, "Smiling", "Grinning"),
        r"list_attr_celeba\.txt.*missing: Smiling.*get the official file",
    ),
    "attribute file cut short": (
        replace_line(ATTRIBUTE_FILE, 14, ""),
        r"list_attr_celeba\.txt announces 12 images on line 1 but lists 11; .* get it again",
    ),
    "a value too few": (
        replace_line(ATTRIBUTE_FILE, 5, f"{FILES[2]} {ROW[:-2]}"),
        r"list_attr_celeba\.txt line 5: expected .*40 values.*found 40 fields; get the official",
    ),
    "a value too many": (
        replace_line(ATTRIBUTE_FILE, 5, f"{FILES[2]} {ROW} 1"),
        r"list_attr_celeba\.txt line 5: expected .*40 values.*found 42 fields; get the official",
    ),
    "a blank row": (
        replace_line(ATTRIBUTE_FILE, 5, ""),
        r"list_attr_celeba\.txt line 5: .*get the official",
    ),
    "a value of 0": (
        replace_line(ATTRIBUTE_FILE, 6, f"{FILES[3]} {ROW[:-1]}0"),
        r"list_attr_celeba\.txt line 6: .*1 or -1.*get the official",
    ),
    "no identity": (
        replace(IDENTITY_FILE, f"{FILES[3]} 9\n", ""),
        r"identity_CelebA\.txt has no identity for image 000004\.jpg; get ",
    ),
    "identity that is no number": (
        replace_line(IDENTITY_FILE, 4, f"{FILES[3]} Ann"),
        r"identity_CelebA\.txt: .*000004\.jpg is 'Ann', not a number; get ",
    ),
    "identity row of one field": (
        replace_line(IDENTITY_FILE, 4, FILES[3]),
        r"identity_CelebA\.txt line 4: expected 2 fields, found 1; get ",
    ),
    "label file that is no text": (
        write_bytes(ATTRIBUTE_FILE, b"12\n\xff\xfe\x81"),
        r"list_attr_celeba\.txt cannot be read",
    ),
    "identity file that is no text": (
        write_bytes(IDENTITY_FILE, b"\x1f\x8b\x08\xff"),
        r"identity_CelebA\.txt cannot be read",
    ),
    "truncated image": (
        truncate(BAD_IMAGE),
        r"000003\.jpg cannot be decoded .*replace it or remove it",
    ),
    "text as an image": (
        write_bytes(BAD_IMAGE, b"<html>404</html>"),
        r"000003\.jpg cannot be decoded .*replace it or remove it",
    ),
    "empty image": (
        write_bytes(BAD_IMAGE, b""),
        r"000003\.jpg cannot be decoded .*replace it or remove it",
    ),
    "image smaller than the crop": (
        shrink(BAD_IMAGE, 64, 64),
        r"000003\.jpg has .* too few for the crop .*replace it",
    ),
    **{
        f"image {name}": (
            replace_line(ATTRIBUTE_FILE, 7, f"{name} {ROW}"),
            r"list_attr_celeba\.txt lists the image .*outside .*use the official label file",
        )
        for name in ("../../etc/passwd", "/etc/passwd", "a/../../b.jpg", r"..\..\b.jpg", "..")
    },
}


@pytest.mark.parametrize(("damage", "message"), BAD.values(), ids=BAD.keys())
def test_bad_input_is_named_with_the_way_out(root: Path, damage: Damage, message: str) -> None:
    damage(root / "celeba")
    with pytest.raises(UsageError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("identity", ["--5", "9" * 30])
def test_an_identity_that_only_looks_like_a_number_is_named(root: Path, identity: str) -> None:
    replace_line(IDENTITY_FILE, 4, f"{FILES[3]} {identity}")(root / "celeba")
    with pytest.raises(UsageError, match=r"identity_CelebA\.txt: .*000004\.jpg"):
        load(root)


def test_a_failed_decoding_leaves_nothing_in_the_cache(root: Path) -> None:
    truncate(BAD_IMAGE)(root / "celeba")
    for _ in range(2):
        with pytest.raises(UsageError, match="cannot be decoded"):
            load(root)


def test_a_missing_folder_names_the_source_and_the_embedded_default(tmp_path: Path) -> None:
    setup = Setup(dataset="celeba", image_size=32, properties=("gender",), main_task="Bangs")
    for data_root, where in ((None, "no --data-root given"), (tmp_path, f"{tmp_path / 'celeba'}")):
        with pytest.raises(UsageError) as caught:
            load_individuals(setup, data_root)
        for part in (where, "mmlab.ie.cuhk.edu.hk", "--data-root DIR", "--set dataset=synthetic"):
            assert part in str(caught.value)


@pytest.fixture(scope="module")
def real(data_root: Path) -> Individuals:
    return CelebA().load(data_root, 32)


@pytest.fixture(scope="module")
def real_rows(data_root: Path) -> list[list[str]]:
    """The attribute file's names, and its rows of images that exist, split at white space."""
    folder = data_root / "celeba"
    present = {path.name for path in (folder / "img_align_celeba").iterdir()}
    names, *rows = [line.split() for line in (folder / ATTRIBUTE_FILE).open()][1:]
    return [names, *(row for row in rows if row[0] in present)]


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.parametrize("part", ["sample", pytest.param("all", marks=pytest.mark.nightly)])
def test_every_real_image_is_found(
    part: str, real: Individuals, real_rows: list[list[str]]
) -> None:
    """Nightly of all images that there are."""
    assert len(real) == len(real.images) == len(real_rows) - 1
    assert real.images.std(axis=(1, 2, 3)).min() > 5


@pytest.mark.slow
@pytest.mark.real_data
def test_the_real_balance_of_gender_is_the_file_s(
    real: Individuals, real_rows: list[list[str]]
) -> None:
    column = real_rows[0].index("Male") + 1
    males = sum(row[column] == "1" for row in real_rows[1:])
    assert int(real.attributes["gender"].sum()) == males
    assert 0.3 < males / len(real) < 0.7


@pytest.mark.slow
@pytest.mark.real_data
def test_the_real_people_are_many_with_several_images_each(real: Individuals) -> None:
    _, images = np.unique(real.identities, return_counts=True)
    assert len(images) > 1000
    assert (images > 1).mean() > 0.5
