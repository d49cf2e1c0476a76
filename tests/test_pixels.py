"""Image files show the same whatever format and depth they are stored in."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from damage import noise
from leakbench.auditing.image_files import read_labelled_images
from leakbench.base.errors import UsageError
from leakbench.data.images import decoded
from leakbench.data.pixels import read_rgb

GREY = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def stored(folder: Path, name: str, values: np.ndarray) -> Path:
    Image.fromarray(values).save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("deep.png", GREY.astype(np.uint16) * 257),
        ("deep.tif", GREY.astype(np.uint16) * 257),
        ("long.tif", GREY.astype(np.int32) * 257),
        ("float.tif", GREY.astype(np.float32) / 255),
        ("grey.png", GREY),
    ],
)
def test_deep_grey_images_show_what_their_twin_of_8_bits_shows(
    name: str, values: np.ndarray, tmp_path: Path
) -> None:
    file = stored(tmp_path, name, values)
    assert np.array_equal(np.asarray(read_rgb(file, upright=True))[..., 1], GREY)
    assert np.array_equal(np.array(decoded([file], None, 8)), decoded([twin(tmp_path)], None, 8))


def twin(folder: Path) -> Path:
    return stored(folder, "twin.png", GREY)


@pytest.mark.parametrize("value", [1.5, -0.1, np.nan])
def test_floating_point_values_out_of_range_are_refused(value: float, tmp_path: Path) -> None:
    values = GREY.astype(np.float32) / 255
    values[2, 2] = value
    file = stored(tmp_path, "float.tif", values)
    with pytest.raises(UsageError, match=r"float\.tif cannot be decoded \(its values range"):
        decoded([file], None, 8)


def test_an_image_is_turned_upright_unless_boxes_count_its_pixels(tmp_path: Path) -> None:
    file = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    Image.fromarray(GREY).save(file, exif=exif)
    upright = np.asarray(read_rgb(file, upright=True))[..., 0]
    assert np.array_equal(upright, np.rot90(GREY, -1))
    assert np.array_equal(np.asarray(read_rgb(file, upright=False))[..., 0], GREY)
    corner = decoded([file], (0, 0, 4, 4), 4)
    assert np.array_equal(corner[0, 0], GREY[:4, :4])


@pytest.mark.parametrize("kind", ["fifo", "folder", "loop", "text", "torn"])
def test_what_is_no_image_is_one_sentence(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    if kind == "fifo":
        os.mkfifo(file)
    elif kind == "folder":
        file.mkdir()
    elif kind == "loop":
        file.symlink_to(file)
    else:
        noise(0, height=40, width=40).save(file)
        content = file.read_bytes()
        file.write_bytes(b"no image" if kind == "text" else content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"\S"):
        read_rgb(file, upright=True)


def test_a_person_has_one_identity_however_the_number_is_written(tmp_path: Path) -> None:
    twin(tmp_path)
    names = ["7", "7.0", "7 ", " 7.00", "07", "7.5", "Ann", "Ann "]
    lines = [f'twin.png,"{name}"' for name in names]
    (tmp_path / "people.csv").write_text("\n".join(["file,identity", *lines]) + "\n")
    identities = read_labelled_images(tmp_path, None, "D_aux").identities
    assert identities is not None
    seven, *others = identities.tolist()
    assert others[:3] == [seven] * 3
    assert len({seven, *others[3:]}) == 4
    assert others[5] == others[6]
