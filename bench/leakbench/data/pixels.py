"""Image files as RGB or grey images of 8 bits, however many bits their format has."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from leakbench.base.files import read_regular

DEEP = ("I;16", "I;16B", "I;16L", "I;16N", "I")
"""Pillow's modes of grey images of 16 bits; it would cut their values at 255, not scale them."""

GREY = ("1", "L", "LA")
"""Pillow's modes of grey images of 8 bits or less."""


def read_rgb(file: Path, upright: bool) -> Image.Image:
    """Return an image file as RGB of 8 bits; see `read_image`."""
    return read_image(file, upright).convert("RGB")


def read_image(file: Path, upright: bool) -> Image.Image:
    """Return an image file with 8 bits, in Pillow's mode L where it is grey, else in mode RGB.

    Grey values of 16 bits, and floating-point ones in [0, 1], are scaled to 8 bits.

    Args:
        upright: whether to turn the image as its EXIF orientation says; not where boxes count the
            pixels as they are stored.

    Raises:
        ValueError: it is no regular file or no image that can be decoded; the message says why.
    """
    try:
        with Image.open(BytesIO(read_regular(file))) as image:
            image.load()
            turned = ImageOps.exif_transpose(image) if upright else image
            plain = _of_8_bits(turned)
            return plain.convert("L" if plain.mode in GREY else "RGB")
    except MemoryError:
        raise
    except UnidentifiedImageError:
        raise ValueError("it is in no format of images that Pillow reads") from None
    except OSError as error:
        raise ValueError(error.strerror or str(error)) from error
    except Exception as error:  # Pillow raises as many kinds as files can be wrong
        raise ValueError(str(error) or type(error).__name__) from error


def _of_8_bits(image: Image.Image) -> Image.Image:
    """Return a deep grey image with 8 bits; others unchanged.

    Raises:
        ValueError: values are out of range: of 16 bits, or [0, 1] for floating-point ones.
    """
    if image.mode not in (*DEEP, "F"):
        return image
    white = 1.0 if image.mode == "F" else 65_535.0
    values = np.asarray(image, dtype=np.float64)
    # NaN is in no range.
    if not ((values >= 0) & (values <= white)).all():
        raise ValueError(
            f"its values range from {values.min():g} to {values.max():g}, not from 0 to {white:g}"
        )
    return Image.fromarray(np.rint(255 * values / white).astype(np.uint8))
