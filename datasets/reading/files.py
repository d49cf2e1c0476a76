"""Individuals from image files: existing files, decoding, fingerprint of the content."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from leakbench.base.errors import UsageError
from leakbench.base.seeds import digest
from leakbench.data.dataset import Individuals
from leakbench.data.images import Box, Fit, decoded

ABSENT = "listed, but their image is absent"
"""Reason why individuals are left out of a subset of the images."""


def existing_files(files: Sequence[Path], folder: Path, source: str) -> NDArray[np.int64]:
    """Return the indices of the files that exist, shape (n,).

    Raises:
        UsageError: none of the files exists.
    """
    if not folder.is_dir():
        raise UsageError(f"folder {folder} not found; get {source}")
    rows = np.array([i for i, file in enumerate(files) if file.is_file()], dtype=np.int64)
    if not len(rows):
        raise UsageError(f"{folder} has none of the listed images; get {source}")
    return rows


def individuals_from_files(
    names: Sequence[str],
    files: Sequence[Path],
    attributes: Mapping[str, NDArray[np.bool_]],
    identities: NDArray[np.int64],
    crop: Box | list[Box] | None,
    size: int,
    *,
    left_out: Mapping[str, int],
    fit: Fit = "inside",
) -> Individuals:
    """Return individuals whose images are decoded from files.

    Args:
        names: unique name of each individual in the label files.
        files: the image file of each individual.
        attributes: name → presence, shape (n,) each.
        identities: shape (n,).
        crop, size, fit: see `decoded`.
        left_out: see `Individuals`; reasons with count 0 are dropped.

    Raises:
        UsageError: an image cannot be decoded.
    """
    images = decoded(files, crop, size, fit)
    table = np.stack(list(attributes.values()), axis=1)
    return Individuals(
        images=images,
        attributes=attributes,
        identities=identities,
        fingerprint=content_fingerprint(names, list(attributes), table, identities, images),
        left_out={reason: number for reason, number in left_out.items() if number},
        names=names,
    )


def content_fingerprint(
    names: Sequence[str],
    attribute_names: Sequence[str],
    table: NDArray[np.bool_],
    identities: NDArray[np.int64],
    images: NDArray[np.uint8],
) -> str:
    """Return a short hash of a data set's labels and images.

    Args:
        names: of the n individuals.
        attribute_names: of the table's columns.
        table: presence of each attribute, shape (n, attributes).
        identities: shape (n,).
        images: shape (n, 3, size, size).
    """
    return digest(
        list(names),
        list(attribute_names),
        np.packbits(table).tobytes().hex(),
        identities.tolist(),
        zlib.crc32(np.ascontiguousarray(images).data),
    )[:16]
