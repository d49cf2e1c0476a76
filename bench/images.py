"""Decoding of image files to one square size, cached as a memory-mapped array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.cache import cached_array
from bench.errors import UsageError
from bench.seeds import digest

Box = tuple[int, int, int, int]
"""Left, upper, right, lower in pixels."""


def inside(folder: Path, name: str, listed_in: Path) -> Path:
    """Return `folder / name` for a path read from a label file.

    Raises:
        UsageError: the path would leave the folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or not path.parts:
        raise UsageError(
            f"{listed_in} lists the image {name!r}, which lies outside {folder}; "
            f"use the official label file"
        )
    return folder / path


def decoded(files: Sequence[Path], crop: Box | None, size: int) -> NDArray[np.uint8]:
    """Return the files' images, cropped and resized, uint8 RGB, shape (n, 3, size, size).

    The first call decodes every file; later ones map the cached result. The cache is keyed by the
    files' paths, sizes and times of change, the crop and the size.

    Raises:
        UsageError: a file cannot be decoded.
    """
    stats = [file.stat() for file in files]
    listing = [
        (str(file.absolute()), stat.st_size, stat.st_mtime_ns)
        for file, stat in zip(files, stats, strict=True)
    ]
    key = digest("images", 2, listing, crop, size)

    def decode_all() -> NDArray[np.uint8]:
        images = np.empty((len(files), 3, size, size), dtype=np.uint8)
        for i, file in enumerate(files):
            images[i] = _decode(file, crop, size)
        return images

    return cached_array(f"images/{key[:24]}", decode_all)


def _decode(file: Path, crop: Box | None, size: int) -> NDArray[np.uint8]:
    try:
        with Image.open(file) as image:
            whole = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(
            f"image {file} cannot be decoded ({error}); replace it or remove it from the folder"
        ) from error
    if crop is not None and (crop[2] > whole.width or crop[3] > whole.height):
        raise UsageError(
            f"image {file} has {whole.width}×{whole.height} pixels, too few for the crop {crop}; "
            f"replace it by the official one"
        )
    pixels = whole.crop(crop).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(pixels).transpose(2, 0, 1)
