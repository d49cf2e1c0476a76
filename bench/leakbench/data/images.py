"""Decode image files to one square size, cached as a memory-mapped array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from leakbench.base.cache import cached_array
from leakbench.base.errors import UsageError
from leakbench.base.seeds import digest
from leakbench.data.pixels import read_rgb

Box = tuple[int, int, int, int]
"""Left, upper, right, lower in pixels, from 0; right and lower are the first ones outside."""

Fit = Literal["inside", "square", "extended"]
"""How a crop is applied to its image.

`inside` uses it unchanged; it must lie within the image. `square` widens it, see `square_around`.
`extended` allows it to exceed the image, whose border pixels are repeated there.
"""

OVERHANG = 0.02
"""Share of the longer side by which a box may exceed the image with `square`: annotators' boxes are
inexact."""


LONGEST = 255
"""Bytes of a file's name on common file systems."""


def inside(folder: Path, name: str, listed_in: Path) -> Path:
    """Return `folder / name` for a path read from a label file.

    Raises:
        UsageError: the path is outside the folder, or no file can have it.
    """
    path = PurePosixPath(name)
    if "\0" in name or any(len(part.encode()) > LONGEST for part in path.parts):
        raise UsageError(
            f"{listed_in} lists the image {name[:80]!r}…, a name that no file can have; use the "
            f"official label file"
        )
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise UsageError(
            f"{listed_in} lists the image {name!r}, which lies outside {folder}; "
            f"use the official label file"
        )
    return folder / path


def decoded(
    files: Sequence[Path], crop: Box | list[Box] | None, size: int, fit: Fit = "inside"
) -> NDArray[np.uint8]:
    """Return the files' images, cropped and resized, uint8 RGB, shape (n, 3, size, size).

    The first call decodes every file; later calls map the cached result. The cache key consists of
    the files' paths, sizes and modification times, the crops, the fit and the size.

    Args:
        files: one for each image; a file may occur more than once.
        crop: one for all images, a list with one for each, or none.
        size: height and width of the result in pixels.
        fit: how crops are laid on their images.

    Raises:
        UsageError: a file cannot be decoded, or a crop does not fit.
    """
    stats = [file.stat() for file in files]
    listing = [
        (str(file.absolute()), stat.st_size, stat.st_mtime_ns)
        for file, stat in zip(files, stats, strict=True)
    ]
    crops = crop if isinstance(crop, list) else [crop] * len(files)
    key = digest("images", 4, listing, crop, fit, size)

    def decode_all() -> NDArray[np.uint8]:
        images = np.empty((len(files), 3, size, size), dtype=np.uint8)
        for i, (file, box) in enumerate(zip(files, crops, strict=True)):
            images[i] = _decode(file, box, size, fit)
        return images

    return cached_array(f"images/{key[:24]}", decode_all)


def square_around(box: Box, width: int, height: int) -> Box:
    """Return the smallest square around a box, shifted into the image.

    If the image is too narrow for it, the result is as wide as the image and not square. It always
    contains the box.
    """
    left, upper, right, lower = box
    side = max(right - left, lower - upper)
    across, down = min(side, width), min(side, height)
    x = min(max(left - (across - (right - left)) // 2, 0), width - across)
    y = min(max(upper - (down - (lower - upper)) // 2, 0), height - down)
    return (x, y, x + across, y + down)


def _decode(file: Path, crop: Box | None, size: int, fit: Fit) -> NDArray[np.uint8]:
    try:
        whole = read_rgb(file, upright=crop is None)
    except ValueError as error:
        raise UsageError(
            f"image {file} cannot be decoded ({error}); replace it or remove it from the folder"
        ) from error
    if crop is not None:
        whole = _cropped(whole, crop, fit, file)
    pixels = whole.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(pixels).transpose(2, 0, 1)


def _cropped(whole: Image.Image, crop: Box, fit: Fit, file: Path) -> Image.Image:
    if fit == "extended":
        return _extended(whole, crop)
    width, height = whole.size
    slack = OVERHANG * max(width, height) if fit == "square" else 0
    left, upper, right, lower = crop
    if min(left, upper) < -slack or right > width + slack or lower > height + slack:
        raise UsageError(
            f"image {file} has {width}×{height} pixels, too few for the crop {crop}; "
            f"replace it by the official one or correct its box in the label file"
        )
    if fit == "square":
        cut = (max(left, 0), max(upper, 0), min(right, width), min(lower, height))
        crop = square_around(cut, width, height)
    return whole.crop(crop)


def _extended(whole: Image.Image, crop: Box) -> Image.Image:
    """Return a crop that may exceed the image; border pixels are repeated."""
    rows = np.clip(np.arange(crop[1], crop[3]), 0, whole.height - 1)
    columns = np.clip(np.arange(crop[0], crop[2]), 0, whole.width - 1)
    return Image.fromarray(np.asarray(whole)[rows[:, None], columns])


def to_images(pixels: NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """Return uint8 pixels as float32 images in [0, 1], a copy that shares no memory."""
    return torch.from_numpy(np.array(pixels)).to(device).float().div_(255)
