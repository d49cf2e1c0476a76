"""aPascal: vehicles of PASCAL VOC 2008 with attribute labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leakbench.base.errors import UsageError
from leakbench.base.registry import register_dataset
from leakbench.data.dataset import DataSet, Individuals
from leakbench.data.images import Box, inside
from leakbench.data.label_files import read_lines, read_rows, whole_number
from leakbench.datasets.reading.files import ABSENT, existing_files, individuals_from_files

VEHICLES = ("aeroplane", "bicycle", "boat", "bus", "car", "motorbike", "train")
LISTS = ("apascal_train.txt", "apascal_test.txt")
WHEEL = "Wheel"


@dataclass(frozen=True)
class _Object:
    """One row of an annotation file."""

    image: str
    kind: str
    box: Box
    present: tuple[bool, ...]


@register_dataset("apascal")
@dataclass(frozen=True, kw_only=True)
class APascal(DataSet):
    """Farhadi, Endres, Hoiem, Forsyth 2009, Describing Objects by their Attributes (CVPR).

    Reads `attribute_data/apascal_train.txt`, `apascal_test.txt` and `attribute_names.txt`, and the
    images of PASCAL VOC 2008 in `VOC2008/JPEGImages/`. Each row is an object, cropped to its box.
    Only vehicles are used: on people and cats, wheel would only say that they are not vehicles.
    Property: wheel, whether wheels are visible on this object (Wheel). Main tasks: any of the 64
    attributes, spaces written as `_`.

    Boxes are VOC's: pixels count from 1, and the right and lower ones belong to the box. A box that
    exceeds its image is an error. The crop is the box, stretched to a square, because the area
    beside it may contain another vehicle's wheel.

    The identity is the image, so that objects of one image stay on one side of the split.
    """

    folder = "apascal"
    source = (
        "attribute_data/ from https://vision.cs.uiuc.edu/attributes/ and VOC2008/ from "
        "http://host.robots.ox.ac.uk/pascal/VOC/voc2008/"
    )
    properties = ("wheel",)
    size = "12,695 objects, vehicles among them"
    terms = "research; images under Flickr's terms"

    def load(self, data_root: Path | None, size: int) -> Individuals:
        """Return the vehicles whose image exists, in the order of the two annotation files."""
        assert data_root is not None
        folder = data_root / self.folder
        names = _attribute_names(folder / "attribute_data" / "attribute_names.txt")
        everything = [
            row for file in LISTS for row in _objects(folder / "attribute_data" / file, len(names))
        ]
        vehicles = [row for row in everything if row.kind in VEHICLES]
        images = folder / "VOC2008" / "JPEGImages"
        files = [inside(images, row.image, folder / "attribute_data") for row in vehicles]
        rows = existing_files(files, images, self.source)
        kept = [vehicles[i] for i in rows]
        table = np.array([row.present for row in kept], dtype=np.bool_)
        return individuals_from_files(
            names=[f"{row.image} {row.box}" for row in kept],
            files=[files[i] for i in rows],
            attributes={
                "wheel": table[:, names.index(WHEEL)],
                **{name: table[:, i] for i, name in enumerate(names)},
            },
            identities=np.unique([row.image for row in kept], return_inverse=True)[1].astype(
                np.int64
            ),
            crop=[row.box for row in kept],
            size=size,
            left_out={
                ABSENT: len(vehicles) - len(kept),
                "objects that are not vehicles": len(everything) - len(vehicles),
            },
        )

    def attribute_names(self, data_root: Path | None) -> tuple[str, ...] | None:
        """Return the property and the attributes that `attribute_names.txt` names."""
        if data_root is None:
            return None
        file = data_root / self.folder / "attribute_data" / "attribute_names.txt"
        return ("wheel", *_attribute_names(file))

    def main_tasks(self) -> Mapping[str, str]:
        """Return two tasks of attributes that are nearly uncorrelated with wheel among vehicles."""
        return {"2-class": "Window", "8-class": "Window+3D_Boxy+Occluded"}


def _attribute_names(path: Path) -> list[str]:
    names = [line.strip().replace(" ", "_") for line in read_lines(path)]
    if names.count(WHEEL) != 1 or len(set(names)) < len(names):
        raise UsageError(
            f"{path} does not name {WHEEL} once, and each other attribute once; "
            f"get the official file"
        )
    return names


def _objects(path: Path, attributes: int) -> Iterator[_Object]:
    for number, row in enumerate(read_rows(path, fields=6 + attributes), start=1):
        image, kind, *fields = row
        box, values = fields[:4], fields[4:]
        sides = [side for text in box if (side := whole_number(text)) is not None]
        if len(sides) < len(box) or not {"0", "1"}.issuperset(values):
            raise UsageError(
                f"{path} line {number}: expected an image, a class, four numbers of a box and "
                f"{attributes} values of 0 or 1; get the official file"
            )
        left, upper, right, lower = sides
        if not (1 <= left <= right and 1 <= upper <= lower):
            raise UsageError(
                f"{path} line {number}: the box {' '.join(box)} of {image} is not left, upper, "
                f"right, lower, counted from 1; get the official file"
            )
        yield _Object(
            image, kind, (left - 1, upper - 1, right, lower), tuple(v == "1" for v in values)
        )
