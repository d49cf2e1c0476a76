"""Near-duplicates: rows of a data set that show the same photo, perhaps edited.

A photo is known again by its texture: a small grey thumbnail minus its blurred copy, which leaves
out the plain backgrounds and the light that different photos share. Two rows are near-duplicates if
their textures correlate by more than `ALIKE`. Resizing, compression, brightness, a filter of colour
and mirroring change the correlation little. Another crop, shifted by several per cent, changes it
much: such a pair is not found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from leakbench.base.cache import cached_tensors
from leakbench.base.seeds import digest, seed_for
from leakbench.data.dataset import Individuals
from leakbench.data.images import to_images

ALIKE = 0.9
"""Correlation of textures above which two images are the same photo.

In CelebA, LFW, UTKFace, CUB and aPascal at 32, 64 and 128 px, photos of different people or objects
reach 0.87, and the same photo under two identities 0.93 and more, unless its crop is another.
"""

SIDE = 24
"""Height and width of a thumbnail in pixels."""

BLUR = 5
"""Side in pixels of the square over which the blurred thumbnail averages."""

FLAT = 0.01
"""Standard deviation of a texture, of values in [0, 1], below which an image is not compared."""

VERSION = 1
"""Of the procedure; raised whenever it may find other pairs."""

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]


def with_near_duplicates(individuals: Individuals) -> Individuals:
    """Return individuals that know their near-duplicates, found once for each fingerprint.

    Where some are of different identities, these count as one person, which moves the split: the
    fingerprint changes with them.
    """
    pairs = near_duplicates_of(individuals)
    one, other = individuals.identities[pairs].T
    across = pairs[one != other]
    fingerprint = individuals.fingerprint
    if len(across):
        fingerprint = digest("near-duplicates", fingerprint, across.tolist())[: len(fingerprint)]
    return replace(individuals, near_duplicates=pairs, fingerprint=fingerprint)


def near_duplicates_of(*data: Individuals) -> Rows:
    """Return the near-duplicates within and between data sets, cached; see `near_duplicates`.

    Raises:
        WriteError: the cache cannot be written to, or the disk is full.
    """
    contents = [[each.fingerprint, list(each.images.shape)] for each in data]
    found = cached_tensors(
        f"near-duplicates/{digest(VERSION, contents)[:24]}",
        lambda: {"pairs": torch.from_numpy(near_duplicates(*(each.images for each in data)))},
    )
    return found["pairs"].numpy()


def near_duplicates(*images: NDArray[np.uint8]) -> Rows:
    """Return the pairs of rows that show the same photo.

    The time grows about linearly with the number of images: only those are compared that share one
    of `TABLES` hashes of their textures. A pair that correlates by little more than `ALIKE` can be
    missed. Of more than `WINDOW` copies of one photo not all pairs are returned, but pairs that
    connect them.

    Args:
        images: uint8 RGB, shape (n, 3, size, size) each; may be memory-mapped. Rows are numbered
            through all of them.

    Returns:
        Rows, ascending, the lower one first, shape (pairs, 2).
    """
    textures = np.concatenate([_textures(each) for each in images])
    rows = np.flatnonzero(textures.any(axis=1))
    textures = textures[rows]
    candidates = _all_pairs if len(rows) <= FEW else _pairs_of_equal_hash
    found = [np.empty((0, 2), dtype=np.int64)]
    for pairs in candidates(textures):
        one, other = pairs.T % max(len(rows), 1)
        turned = _mirrored_where(textures, pairs[:, 1])
        alike = np.einsum("ij,ij->i", textures[one], turned) > ALIKE
        found.append(np.stack([one, other], axis=1)[alike])
    return np.unique(np.sort(rows[np.concatenate(found)], axis=1), axis=0)


FEW = 500
"""Images of which all pairs are compared."""

COMPONENTS = 48
"""Principal components of the textures from which hashes are computed."""

BITS = 20
"""Bits of a hash."""

TABLES = 64
"""Hashes of each image."""

WINDOW = 50
"""Images of equal hash with which one is compared."""

AT_ONCE = 10_000
"""Images or pairs that are computed at once, for memory."""


def _textures(images: NDArray[np.uint8]) -> Floats:
    """Return textures of mean 0 and norm 1, zero where an image is flat, shape (n, SIDE²)."""
    parts = [np.empty((0, SIDE * SIDE), dtype=np.float32)]
    for start in range(0, len(images), AT_ONCE // 4):
        grey = to_images(images[start : start + AT_ONCE // 4]).mean(dim=1, keepdim=True)
        small = functional.interpolate(grey, size=(SIDE, SIDE), mode="area")
        around = functional.pad(small, (BLUR // 2,) * 4, mode="replicate")
        texture = (small - functional.avg_pool2d(around, BLUR, stride=1)).flatten(1)
        texture = texture - texture.mean(dim=1, keepdim=True)
        norm = texture.norm(dim=1, keepdim=True)
        parts.append(torch.where(norm > FLAT * SIDE, texture / norm, 0).numpy())
    return np.concatenate(parts)


def _mirrored(textures: Floats) -> Floats:
    return textures.reshape(-1, SIDE, SIDE)[:, :, ::-1].reshape(-1, SIDE * SIDE)


def _mirrored_where(textures: Floats, rows: Rows) -> Floats:
    """Return textures of rows; those of n and more are row 0, 1, … mirrored."""
    chosen = textures[rows % len(textures)]
    turned = rows >= len(textures)
    chosen[turned] = _mirrored(chosen[turned])
    return chosen


def _all_pairs(textures: Floats) -> Iterator[Rows]:
    """Yield all pairs of rows, and of a row with a mirrored one: n + i is row i mirrored."""
    count = len(textures)
    for row in range(count - 1):
        others = np.arange(row + 1, count)
        both = np.concatenate([others, others + count])
        yield np.stack([np.full(len(both), row), both], axis=1)


def _pairs_of_equal_hash(textures: Floats) -> Iterator[Rows]:
    """Yield pairs of rows that may be alike: equal in a hash, and close in the components.

    A hash is the signs of random projections of the whitened components. Only the second of a pair
    is mirrored, as for `_all_pairs`: two mirrored ones are as alike as the two that are not.
    """
    count = len(textures)
    mean = textures.mean(axis=0)
    covariance = textures.T @ textures / count - np.outer(mean, mean)
    variances, axes = np.linalg.eigh(covariance.astype(np.float64))
    basis = axes[:, -COMPONENTS:].astype(np.float32)
    components = np.concatenate(
        [
            (turned(textures[start : start + AT_ONCE]) - mean) @ basis
            for turned in (np.asarray, _mirrored)
            for start in range(0, count, AT_ONCE)
        ]
    )
    whitened = components / np.sqrt(variances[-COMPONENTS:].clip(1e-12)).astype(np.float32)
    random = np.random.default_rng(seed_for("near-duplicates"))
    for _ in range(TABLES):
        planes = random.standard_normal((COMPONENTS, BITS)).astype(np.float32)
        hashes = (whitened @ planes > 0) @ (1 << np.arange(BITS))
        for pairs in _pairs_of_equal(hashes):
            one, other = np.sort(pairs, axis=1).T
            wanted = np.flatnonzero((one < count) & (one != other % count))
            for start in range(0, len(wanted), AT_ONCE):
                part = wanted[start : start + AT_ONCE]
                apart = ((components[one[part]] - components[other[part]]) ** 2).sum(axis=1)
                # Of vectors of norm 1 the distance is √(2 − 2 · correlation), and no projection
                # of it is longer.
                close = part[apart < 2 - 2 * ALIKE]
                if len(close):
                    yield np.stack([one[close], other[close]], axis=1)


def _pairs_of_equal(hashes: NDArray[np.int64]) -> Iterator[Rows]:
    """Yield pairs of rows of equal hash, each row with the `WINDOW` next ones at most."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    for step in range(1, WINDOW + 1):
        equal = np.flatnonzero(ordered[step:] == ordered[:-step])
        if not len(equal):
            return
        yield np.stack([order[equal], order[equal + step]], axis=1)
