"""LAD, the Large-scale Attribute Dataset: its vehicles."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leakbench.base.errors import UsageError
from leakbench.base.registry import register_dataset
from leakbench.data.dataset import DataSet, Individuals
from leakbench.data.images import inside
from leakbench.data.label_files import read_lines
from leakbench.datasets.reading.files import ABSENT, existing_files, individuals_from_files

SEPARATOR = ", "
VEHICLE_LABEL, VEHICLE_ATTRIBUTE = "Label_V_", "Attr_V_"


@register_dataset("lad")
@dataclass(frozen=True, kw_only=True)
class LAD(DataSet):
    """Zhao, Fu, Liang, Wu, Wang, Wang 2018, A Large-scale Attribute Dataset for Zero-shot Learning.

    Reads `LAD_annotations/attribute_list.txt` and `attributes.txt`, which labels about 20 images of
    each class, and `images/`. Only images of vehicles are used: on animals, wheel would only say
    that they are not vehicles. They are not cropped, since public readers disagree on the order of
    the box coordinates. Property: wheel. Main tasks: any attribute of vehicles by its id, such as
    Attr_V_181, whose names are in `attribute_list.txt`.

    Each image shows a different vehicle and is an identity.

    Written from the description of the format; not tested on the real files, which were not
    available.

    Attributes:
        wheel: id of the attribute that is the property wheel. By default the only vehicle
            attribute whose English name contains `wheel`, but not `steering wheel`.
    """

    folder = "LAD"
    source = (
        "LAD_annotations/ and images/ from "
        "https://github.com/PatrickZH/A-Large-scale-Attribute-Dataset-for-Zero-shot-Learning"
    )
    properties = ("wheel",)
    size = "78,017 images, some 1,000 labelled vehicles"
    terms = "research; no licence stated"

    wheel: str = ""

    def load(self, data_root: Path | None, size: int) -> Individuals:
        """Return the labelled vehicles whose image exists, in the order of the file."""
        assert data_root is not None
        folder = data_root / self.folder
        annotations = folder / "LAD_annotations"
        names = _attribute_names(annotations / "attribute_list.txt")
        wheel = self._wheel(annotations / "attribute_list.txt", names)
        listed = list(_labels(annotations / "attributes.txt", len(names)))
        vehicles = [(path, row) for label, path, row in listed if label.startswith(VEHICLE_LABEL)]
        files = [inside(folder, path, annotations / "attributes.txt") for path, _ in vehicles]
        rows = existing_files(files, folder / "images", self.source)
        table = np.array([vehicles[i][1] for i in rows], dtype=np.bool_)
        columns = {name: i for i, name in enumerate(names) if name.startswith(VEHICLE_ATTRIBUTE)}
        return individuals_from_files(
            names=[vehicles[i][0] for i in rows],
            files=[files[i] for i in rows],
            attributes={
                "wheel": table[:, columns[wheel]],
                **{name: table[:, i] for name, i in columns.items()},
            },
            identities=np.arange(len(rows), dtype=np.int64),
            crop=None,
            size=size,
            left_out={
                ABSENT: len(files) - len(rows),
                "images without a vehicle": len(listed) - len(vehicles),
            },
        )

    def attribute_names(self, data_root: Path | None) -> tuple[str, ...] | None:
        """Return the property and the ids of the vehicles' attributes."""
        if data_root is None:
            return None
        names = _attribute_names(data_root / self.folder / "LAD_annotations" / "attribute_list.txt")
        return ("wheel", *(id_ for id_ in names if id_.startswith(VEHICLE_ATTRIBUTE)))

    def _wheel(self, path: Path, names: dict[str, str]) -> str:
        """Return the id of the attribute that is the property wheel."""
        vehicles = {id_: name for id_, name in names.items() if id_.startswith(VEHICLE_ATTRIBUTE)}
        if self.wheel:
            if self.wheel not in vehicles:
                raise UsageError(
                    f"dataset.wheel is {self.wheel!r}, which {path} does not list among the "
                    f"vehicles' attributes; choose an id that begins with {VEHICLE_ATTRIBUTE}"
                )
            return self.wheel
        fitting = [id_ for id_, name in vehicles.items() if _is_wheel(name)]
        if len(fitting) != 1:
            candidates = {id_: n for id_, n in vehicles.items() if "wheel" in n.lower()}
            found = "; ".join(f"{id_} ({name})" for id_, name in candidates.items()) or "none"
            raise UsageError(
                f"{path} has {len(fitting)} attributes of vehicles that could be the property "
                f"wheel, among {found}; choose one with --set dataset.wheel=ID"
            )
        return fitting[0]


def _is_wheel(name: str) -> bool:
    return "wheel" in name.lower().replace("steering wheel", "")


def _attribute_names(path: Path) -> dict[str, str]:
    """Return id → English name of every attribute, in the order of the labels' columns."""
    names: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), start=1):
        id_, *rest = line.split(SEPARATOR)
        if len(rest) < 2 or not id_.startswith("Attr_") or id_ in names:
            raise UsageError(
                f"{path} line {number}: expected an id of its own, an English and a Chinese name, "
                f"separated by a comma and a space; get the official file"
            )
        names[id_] = SEPARATOR.join(rest[:-1])
    return names


def _labels(path: Path, attributes: int) -> Iterator[tuple[str, str, list[bool]]]:
    """Yield class, image path and presence of every attribute."""
    listed: dict[str, int] = {}
    for number, line in enumerate(read_lines(path), start=1):
        label, _, rest = line.partition(SEPARATOR)
        image, _, numbers = rest.partition(SEPARATOR)
        values = numbers.strip().removeprefix("[").removesuffix("]").split()
        if (
            not label.startswith("Label_")
            or len(values) != attributes
            or not {"0", "1"}.issuperset(values)
        ):
            raise UsageError(
                f"{path} line {number}: expected a class, an image and {attributes} values of 0 or "
                f"1 in brackets, found {len(values)} values; get the official file"
            )
        if listed.setdefault(image, number) != number:
            # Each image is an identity of its own: two would show one.
            raise UsageError(
                f"{path} line {number}: {image} is listed in line {listed[image]} already; remove "
                f"one of them"
            )
        yield label, image, [value == "1" for value in values]
