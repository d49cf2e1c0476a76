"""Decoding image files: a crop of its own for each, and what lies beyond."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from damage import noise
from leakbench.base.errors import UsageError
from leakbench.data.images import Box, decoded, square_around


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An image 30 pixels wide and 20 high."""
    path = tmp_path / "image.png"
    noise(0, height=20, width=30).save(path)
    return path


def pixels(file: Path, box: Box) -> np.ndarray:
    left, upper, right, lower = box
    whole = np.asarray(noise(0, height=20, width=30))
    return whole[upper:lower, left:right].transpose(2, 0, 1)


def test_each_image_has_its_crop_though_the_file_is_the_same(file: Path) -> None:
    boxes: list[Box] = [(0, 0, 8, 8), (22, 12, 30, 20), (5, 6, 13, 14)]
    images = decoded([file] * 3, boxes, 8)
    for image, box in zip(images, boxes, strict=True):
        assert np.array_equal(image, pixels(file, box))


def test_other_crops_are_not_taken_from_the_cache(file: Path) -> None:
    first = np.array(decoded([file], [(0, 0, 8, 8)], 8))
    assert not np.array_equal(first, decoded([file], [(1, 0, 9, 8)], 8))
    assert not np.array_equal(
        decoded([file], [(0, 0, 8, 4)], 8), decoded([file], [(0, 0, 8, 4)], 8, fit="square")
    )


@pytest.mark.parametrize(
    ("box", "square"),
    [
        ((10, 5, 14, 9), (10, 5, 14, 9)),
        ((10, 5, 14, 13), (8, 5, 16, 13)),
        ((0, 5, 4, 13), (0, 5, 8, 13)),
        ((26, 5, 30, 13), (22, 5, 30, 13)),
        ((2, 18, 8, 20), (2, 14, 8, 20)),
        ((2, 3, 28, 10), (2, 0, 28, 20)),
    ],
)
def test_the_square_around_a_box_is_moved_into_the_image(box: Box, square: Box) -> None:
    assert square_around(box, 30, 20) == square


def test_the_square_around_a_box_holds_it_and_stays_in_the_image() -> None:
    random = np.random.default_rng(0)
    for _ in range(500):
        width, height = random.integers(1, 40, 2)
        left, upper = random.integers(0, width), random.integers(0, height)
        right, lower = random.integers(left, width) + 1, random.integers(upper, height) + 1
        found = square_around((left, upper, right, lower), width, height)
        assert 0 <= found[0] <= left < right <= found[2] <= width
        assert 0 <= found[1] <= upper < lower <= found[3] <= height
        side = max(right - left, lower - upper)
        assert found[2] - found[0] == min(side, width)
        assert found[3] - found[1] == min(side, height)


def test_beyond_an_extended_image_its_border_goes_on(file: Path) -> None:
    image = decoded([file], (-10, -5, 30, 35), 40, fit="extended")[0]
    whole = pixels(file, (0, 0, 30, 20))
    assert np.array_equal(image[:, 5:25, 10:], whole)
    assert (image[:, 5:25, :10] == whole[:, :, :1]).all()
    assert (image[:, :5, 10:] == whole[:, :1]).all()
    assert (image[:, 25:, 10:] == whole[:, -1:]).all()


@pytest.mark.parametrize("box", [(-1, 0, 8, 8), (0, -1, 8, 8), (23, 0, 31, 8), (0, 13, 8, 21)])
def test_a_crop_outside_the_image_is_refused(file: Path, box: Box) -> None:
    with pytest.raises(UsageError, match=r"image\.png has 30×20 pixels, too few for the crop"):
        decoded([file], [box], 8)


def test_a_box_to_be_made_square_may_overhang_by_little(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    noise(0, height=100, width=100).save(path)
    inside = decoded([path], [(40, 40, 100, 100)], 60, fit="square")
    assert np.array_equal(decoded([path], [(40, 40, 102, 102)], 60, fit="square"), inside)
    with pytest.raises(UsageError, match="too few for the crop"):
        decoded([path], [(40, 40, 103, 100)], 60, fit="square")
