"""CUB-200-2011 in its official layout, complete or as a subset of images."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leakbench.base.errors import UsageError
from leakbench.base.registry import register_dataset
from leakbench.data.dataset import DataSet, Individuals
from leakbench.data.images import Box, inside
from leakbench.data.label_files import read_lines, read_rows, whole_number
from leakbench.datasets.reading.cub_labels import IMAGES, image_labels
from leakbench.datasets.reading.files import ABSENT, existing_files, individuals_from_files

LONG_BILL = "has_bill_length::about_the_same_as_head+has_bill_length::longer_than_head"
SEPARATOR = "+"

Ids = NDArray[np.int64]
Mask = NDArray[np.bool_]
Table = NDArray[np.float64]
"""Percentage of annotators who saw an attribute, shape (n, attributes)."""


@register_dataset("cub")
@dataclass(frozen=True, kw_only=True)
class CUB(DataSet):
    """Wah, Branson, Welinder, Perona, Belongie 2011, The Caltech-UCSD Birds-200-2011 Dataset.

    Reads `images/`, `images.txt`, `image_class_labels.txt`, `bounding_boxes.txt`, `attributes.txt`
    (in `attributes/`, or beside the folder as in the official archive) and the attribute labels.
    Rows without their image are left out, so that any subset of the images works; so are birds
    without any label of the beak, for example because it is hidden. Main tasks: any of the 312
    attributes.

    Each image is cropped to the square around the bird's box, which keeps proportions.

    Attributes:
        labels: `image`, what an annotator saw in the image itself
            (`attributes/image_attribute_labels.txt`), or `class`, what most annotators saw in
            images of its species (`attributes/class_attribute_labels_continuous.txt`).
        beak: the attributes that define the property beak, joined by `+`: present if together
            they have half of the votes or more. By default a long beak, as in synthetic birds: at
            least as long as the head, which is true for 38 % of the 200 species.
        identity: what the split separates. `species`, with either kind of label: class-level
            labels are constant in a species, and image-level ones nearly; with the same species in
            D_aux, f_p could recognise the species instead of the beak. Intervals treat victim
            batches as independent and are too narrow if victims are of few species. `image`: each
            image is an identity, and recognising the species counts as a leak.
    """

    folder = "CUB_200_2011"
    source = "CUB_200_2011.tgz from https://www.vision.caltech.edu/datasets/cub_200_2011/"
    properties = ("beak",)
    size = "11,788 birds of 200 species"
    terms = "non-commercial research and education"

    labels: Literal["image", "class"] = "image"
    beak: str = LONG_BILL
    identity: Literal["species", "image"] = "species"

    def load(self, data_root: Path | None, size: int) -> Individuals:
        """Return the birds whose image exists, in the order of `images.txt`."""
        assert data_root is not None
        folder = data_root / self.folder
        listed = {image: path for image, (path,) in _by_image(folder / "images.txt", 2).items()}
        paths = [inside(folder / "images", p, folder / "images.txt") for p in listed.values()]
        there = existing_files(paths, folder / "images", self.source)
        ids = np.array(list(listed), dtype=np.int64)[there]
        names = _attribute_names(folder)
        species = _species(folder / "image_class_labels.txt", ids)
        percent, stray = self._percent(folder, list(listed), ids, species, len(names))
        beak, judged = self._beak(names, percent)
        boxes = _boxes(folder / "bounding_boxes.txt", ids)
        rows = np.flatnonzero(judged)
        return individuals_from_files(
            names=[str(ids[i]) for i in rows],
            files=[paths[there[i]] for i in rows],
            attributes={
                "beak": beak[rows],
                **{name: percent[rows, i] >= 50 for i, name in enumerate(names)},
            },
            identities=species[rows] if self.identity == "species" else ids[rows],
            crop=[boxes[i] for i in rows],
            size=size,
            fit="square",
            left_out={
                ABSENT: len(paths) - len(there),
                "without any label of the beak": len(there) - len(rows),
                "attribute labels of images that images.txt does not list": stray,
            },
        )

    def attribute_names(self, data_root: Path | None) -> tuple[str, ...] | None:
        """Return the property and the attributes that `attributes.txt` names."""
        if data_root is None:
            return None
        return ("beak", *_attribute_names(data_root / self.folder))

    def main_tasks(self) -> Mapping[str, str]:
        """Return two tasks of plumage attributes, which are nearly uncorrelated with the beak."""
        return {
            "2-class": "has_wing_color::black",
            "8-class": "has_wing_color::black+has_underparts_color::white+has_back_pattern::solid",
        }

    def _percent(
        self, folder: Path, listed: list[int], ids: Ids, species: Ids, attributes: int
    ) -> tuple[Table, int]:
        """Return the labels of images and the number of labels of images that are not listed."""
        path = folder / "attributes" / "image_attribute_labels.txt"
        if self.labels == "image":
            if not path.is_file():
                raise UsageError(
                    f"label file {path} not found; unpack it from CUB_200_2011.tgz, or use "
                    f"class-level labels with --set dataset.labels=class"
                )
            return image_labels(path, listed, ids, attributes)
        path = folder / "attributes" / "class_attribute_labels_continuous.txt"
        table = _class_labels(path, attributes)
        if species.max() > len(table):
            raise UsageError(
                f"{folder / 'image_class_labels.txt'} names class {species.max()}, but {path} has "
                f"{len(table)} rows; get the official files"
            )
        return table[species - 1], 0

    def _beak(self, names: list[str], percent: Table) -> tuple[Mask, Mask]:
        """Return whether beak is present, and whether it has any label, shape (n,) each."""
        wanted = set(self.beak.split(SEPARATOR))
        unknown = sorted(wanted - set(names))
        if unknown:
            bills = [name for name in names if name.startswith("has_bill")]
            raise UsageError(
                f"dataset.beak names {unknown[0]!r}, which is not an attribute of CUB; "
                f"its bill attributes are: {', '.join(bills) or 'none'}"
            )
        questions = {_question(name) for name in wanted}
        chosen = [i for i, name in enumerate(names) if name in wanted]
        answers = [i for i, name in enumerate(names) if _question(name) in questions]
        judged = percent[:, answers].sum(axis=1) > 0
        if not judged.any():
            raise UsageError(
                f"no image has a label of any attribute of {', '.join(sorted(questions))}; choose "
                f"others with --set dataset.beak=NAME+NAME"
            )
        return percent[:, chosen].sum(axis=1) >= 50, judged


def _question(name: str) -> str:
    """Return the question of an attribute: `has_bill_shape` for `has_bill_shape::cone`."""
    return name.partition("::")[0]


def _by_image(path: Path, fields: int) -> dict[int, list[str]]:
    """Return the fields after the image's id, by id.

    Raises:
        UsageError: an id is not one of CUB's, or occurs twice.
    """
    found: dict[int, list[str]] = {}
    for number, (text, *rest) in enumerate(read_rows(path, fields), start=1):
        image = whole_number(text) or 0
        if not 1 <= image <= IMAGES or image in found:
            raise UsageError(
                f"{path} line {number}: {text!r} is not an image of CUB's 1 to {IMAGES}, or "
                f"occurs twice; get the official file"
            )
        found[image] = rest
    return found


def _of_each(path: Path, fields: int, ids: Ids) -> Iterator[tuple[int, list[str]]]:
    """Yield each image and its fields in the order of `ids`; other images are ignored."""
    found = _by_image(path, fields)
    for image in ids.tolist():
        if image not in found:
            raise UsageError(f"{path} has no row for image {image}; get the official file")
        yield image, found[image]


def _species(path: Path, ids: Ids) -> Ids:
    """Return the number of each image's species, shape (n,)."""
    species = []
    for image, (text,) in _of_each(path, 2, ids):
        if not re.fullmatch("[1-9][0-9]{0,2}", text):
            raise UsageError(
                f"{path}: the class of image {image} is {text!r}, not a number from 1; "
                f"get the official file"
            )
        species.append(int(text))
    return np.array(species, dtype=np.int64)


def _boxes(path: Path, ids: Ids) -> list[Box]:
    """Return the birds' boxes, rounded outwards to whole pixels."""
    boxes = []
    for image, fields in _of_each(path, 5, ids):
        try:
            x, y, width, height = map(float, fields)
        except ValueError:
            x = y = width = height = math.nan
        if not (math.isfinite(x + y + width + height) and width > 0 and height > 0):
            raise UsageError(
                f"{path}: the box of image {image} is {' '.join(fields)!r}, not left, upper, "
                f"width and height; get the official file"
            )
        boxes.append((math.floor(x), math.floor(y), math.ceil(x + width), math.ceil(y + height)))
    return boxes


def _attribute_names(folder: Path) -> list[str]:
    official, beside = folder / "attributes" / "attributes.txt", folder.parent / "attributes.txt"
    path = official if official.is_file() or not beside.is_file() else beside
    rows = list(read_rows(path, 2))
    names = [name for _, name in rows]
    ordered = [number for number, _ in rows] == [str(i) for i in range(1, len(rows) + 1)]
    if not rows or not ordered or len(set(names)) < len(names):
        raise UsageError(
            f"{path} does not number its attributes from 1, each with a name of its own; "
            f"get the official file"
        )
    return names


def _class_labels(path: Path, attributes: int) -> Table:
    """Return the percentages of each class, shape (classes, attributes)."""
    table = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            row = [float(text) for text in line.split()]
        except ValueError:
            row = []
        if len(row) != attributes or not all(0 <= value <= 100 for value in row):
            raise UsageError(
                f"{path} line {number}: expected {attributes} percentages, found "
                f"{len(line.split())} fields or other values; get the official file"
            )
        table.append(row)
    return np.array(table, dtype=np.float64).reshape(-1, attributes)
