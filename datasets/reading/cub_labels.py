"""CUB's 3.7 million image-level attribute labels, read once and kept in the cache."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from leakbench.base.cache import cached_array
from leakbench.base.errors import UsageError
from leakbench.base.markdown import one_line
from leakbench.base.seeds import digest

IMAGES = 11_788
"""CUB's images are numbered from 1 to this."""

CHUNK = 200_000
"""Lines parsed at once: few enough to keep memory low."""

UNKNOWN = 2
"""Neither present (1) nor absent (0): the file has no label."""


def image_labels(
    path: Path, listed: list[int], ids: NDArray[np.int64], attributes: int
) -> tuple[NDArray[np.float64], int]:
    """Return image-level attribute labels, and the number of labels of images not listed.

    The latter are allowed: the complete file beside a subset of the images.

    Args:
        path: lines of image, attribute, presence, certainty and seconds; images 2275 and 9364
            have additional fields after the presence.
        listed: ids of all images that `images.txt` lists.
        ids: of n images.
        attributes: their number.

    Returns:
        0 or 100 percent, shape (n, attributes), and the number of labels.

    Raises:
        UsageError: the file is malformed, or an image lacks some of its labels.
    """
    if not path.is_file():
        raise UsageError(f"label file {path} is no file; get the official file")
    stat = path.stat()
    key = digest("CUB labels", 1, str(path.absolute()), stat.st_size, stat.st_mtime_ns, attributes)
    table = cached_array(f"labels/cub-{key[:24]}", lambda: _read(path, attributes))
    rows = table[ids - 1]
    incomplete = np.flatnonzero((rows == UNKNOWN).any(axis=1))
    if len(incomplete):
        first = incomplete[0]
        raise UsageError(
            f"{path} has {int((rows[first] != UNKNOWN).sum())} of {attributes} labels for image "
            f"{ids[first]}; get the official file"
        )
    others = np.delete(table, np.array(listed) - 1, axis=0)
    return 100 * rows.astype(np.float64), int((others != UNKNOWN).sum())


def _read(path: Path, attributes: int) -> NDArray[np.uint8]:
    """Return presence by image and attribute, shape (IMAGES, attributes)."""
    limits = {
        "image": (1, IMAGES),
        "attribute": (1, attributes),
        "present": (0, 1),
        "certainty": (1, 4),
    }
    table = np.full((IMAGES, attributes), UNKNOWN, dtype=np.uint8)
    try:
        with pd.read_csv(
            path,
            sep=r"\s+",
            header=None,
            names=[*limits, "seconds", "stray"],
            index_col=False,
            dtype=str,
            skip_blank_lines=False,
            keep_default_na=False,
            quoting=csv.QUOTE_NONE,
            chunksize=CHUNK,
        ) as chunks:
            for first, rows in zip(itertools.count(0, CHUNK), chunks, strict=False):
                values = {name: pd.to_numeric(rows[name], errors="coerce") for name in limits}
                good = rows["seconds"].fillna("") != ""
                for name, (low, high) in limits.items():
                    good &= values[name].between(low, high) & (values[name] % 1 == 0)
                if not good.all():
                    raise _malformed(path, first + int(np.argmin(good)) + 1, attributes)
                image, attribute, presence = (
                    values[name].to_numpy(np.int64) for name in ("image", "attribute", "present")
                )
                table[image - 1, attribute - 1] = presence
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError, OSError) as error:
        reason = one_line(str(error))
        raise UsageError(
            f"label file {path} cannot be read ({reason}); get the official file"
        ) from error
    return table


def _malformed(path: Path, line: int, attributes: int) -> UsageError:
    return UsageError(
        f"{path} line {line}: expected an image from 1 to {IMAGES}, an attribute from 1 to "
        f"{attributes}, 0 or 1, a certainty from 1 to 4, and seconds; get the official file"
    )
