"""CelebA in its official layout, complete or as a subset of images."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leakbench.base.errors import UsageError
from leakbench.base.registry import register_dataset
from leakbench.data.dataset import DataSet, Individuals
from leakbench.data.images import Box, decoded, inside
from leakbench.data.label_files import read_lines, read_rows, whole_number
from leakbench.datasets.reading.files import ABSENT, content_fingerprint

FACE: Box = (0, 20, 178, 198)
"""The square crop of CelebA's faces; LFW's is fitted to it."""

PROPERTIES = {"gender": "Male", "glasses": "Eyeglasses", "smile": "Smiling", "young": "Young"}


@register_dataset("celeba")
@dataclass(frozen=True, kw_only=True)
class CelebA(DataSet):
    """Liu, Luo, Wang, Tang 2015, Deep Learning Face Attributes in the Wild (ICCV).

    Reads `img_align_celeba/`, `list_attr_celeba.txt` and `identity_CelebA.txt`. Rows without their
    image are left out, so that any subset of the images works. Properties: gender (Male), glasses
    (Eyeglasses), smile (Smiling), young (Young); main tasks: any of the 40 official attributes.

    Attributes:
        selection: `all` images, or those of the group `natural` or `balanced` in `selection.csv`
            (columns image_id, group).
    """

    folder = "celeba"
    source = (
        "the aligned images, attributes and identities from "
        "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
    )
    properties = tuple(PROPERTIES)
    size = "202,599 faces of 10,177 people"
    terms = "non-commercial research; no copies to others"

    selection: Literal["all", "natural", "balanced"] = "all"

    def load(self, data_root: Path | None, size: int) -> Individuals:
        """Return the individuals whose image exists, in the order of the attribute file."""
        assert data_root is not None
        folder = data_root / self.folder
        names, files, table = _attributes(folder / "list_attr_celeba.txt")
        image_folder = folder / "img_align_celeba"
        paths = [inside(image_folder, file, folder / "list_attr_celeba.txt") for file in files]
        selected = self._selected(folder, files)
        wanted = _present(image_folder) & selected
        rows = [i for i, file in enumerate(files) if file in wanted]
        if not rows:
            raise UsageError(
                f"{image_folder} has none of the images of selection {self.selection!r} that "
                f"list_attr_celeba.txt lists; unpack img_align_celeba.zip there"
            )
        left_out = {
            f"not in selection {self.selection!r}": sum(file not in selected for file in files),
            ABSENT: sum(file in selected for file in files) - len(rows),
        }
        kept, paths, table = [files[i] for i in rows], [paths[i] for i in rows], table[rows]
        identities = _identities(folder / "identity_CelebA.txt", kept)
        attributes = {name: table[:, names.index(own)] for name, own in PROPERTIES.items()}
        attributes |= {name: table[:, i] for i, name in enumerate(names)}
        images = decoded(paths, FACE, size)
        return Individuals(
            images=images,
            attributes=attributes,
            identities=identities,
            fingerprint=content_fingerprint(kept, names, table, identities, images),
            left_out={reason: number for reason, number in left_out.items() if number},
            names=kept,
        )

    def attribute_names(self, data_root: Path | None) -> tuple[str, ...] | None:
        """Return the properties and those of the attribute file's second line."""
        if data_root is None:
            return None
        lines = read_lines(data_root / self.folder / "list_attr_celeba.txt")
        next(lines, "")
        return (*PROPERTIES, *next(lines, "").split())

    def main_tasks(self) -> Mapping[str, str]:
        """Return two tasks of attributes that are not among the properties."""
        return {
            "2-class": "Mouth_Slightly_Open",
            "8-class": "Mouth_Slightly_Open+Black_Hair+Bangs",
        }

    def _selected(self, folder: Path, files: list[str]) -> set[str]:
        if self.selection == "all":
            return set(files)
        rows = read_rows(folder / "selection.csv", fields=2, separator=",")
        return {file for file, group in rows if group == self.selection}


def _attributes(path: Path) -> tuple[list[str], list[str], NDArray[np.bool_]]:
    """Return attribute names, image files and presence, shape (files, names)."""
    rows = read_lines(path)
    count, names = next(rows, "").strip(), next(rows, "").split()
    missing = sorted(set(PROPERTIES.values()) - set(names))
    announced = whole_number(count)
    if announced is None or missing:
        raise UsageError(
            f"{path} does not begin with a line that holds the number of images and one that names "
            f"the attributes (missing: {', '.join(missing) or 'the number'}); get the official file"
        )
    table = [line.split() for line in rows]
    for number, fields in enumerate(table, start=3):
        if len(fields) != len(names) + 1 or not {"1", "-1"}.issuperset(fields[1:]):
            raise UsageError(
                f"{path} line {number}: expected an image and {len(names)} values of 1 or -1, "
                f"found {len(fields)} fields; get the official file"
            )
    if len(table) != announced:
        raise UsageError(
            f"{path} announces {count} images on line 1 but lists {len(table)}; the file is "
            f"truncated or edited, get it again or correct line 1"
        )
    files = [fields[0] for fields in table]
    return names, files, np.array([fields[1:] for fields in table], dtype="U2") == "1"


def _present(folder: Path) -> set[str]:
    if not folder.is_dir():
        raise UsageError(f"folder {folder} not found; get {CelebA.source}")
    return {entry.name for entry in os.scandir(folder)}


def _identities(path: Path, files: list[str]) -> NDArray[np.int64]:
    """Return each file's identity, shape (n,), which the split needs."""
    known = dict(read_rows(path, fields=2))
    try:
        return np.array([int(known[file]) for file in files], dtype=np.int64)
    except KeyError as error:
        raise UsageError(
            f"{path} has no identity for image {error.args[0]}; get the official file"
        ) from None
    except (ValueError, OverflowError):
        bad = next(file for file in files if not re.fullmatch(r"-?[0-9]{1,18}", known[file]))
        raise UsageError(
            f"{path}: the identity of image {bad} is {known[bad]!r}, not a number; "
            f"get the official file"
        ) from None
