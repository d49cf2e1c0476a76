"""Labeled Faces in the Wild (LFW), deep-funneled, with labels in one of two layouts."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from leakbench.base.errors import UsageError
from leakbench.base.registry import register_dataset
from leakbench.data.dataset import DataSet, Individuals
from leakbench.data.images import Box, inside
from leakbench.data.label_files import read_lines
from leakbench.datasets.reading.files import ABSENT, existing_files, individuals_from_files

FACE: Box = (31, 14, 219, 202)
"""The square crop that gives LFW's faces the position and scale of CelebA's.

Measured on mean faces of unlabelled images: with this crop, LFW's correlates with CelebA's at 0.96
over the middle of the image. With the centred square (36, 36, 214, 214), of nearly the same scale,
the correlation is 0.35, since faces are a tenth of the image too high.
"""

PROPERTIES = {
    "gender": ("Male",),
    "glasses": ("Eyeglasses",),
    "smile": ("Smiling",),
    "young": ("Young", "Youth"),
}
"""Property → its attributes, in order of preference; Columbia's file has Youth, not Young."""

IMAGES = "lfw-deepfunneled"
SCORES = "lfw_attributes*.txt"
COLUMBIA = "https://www.cs.columbia.edu/CAVE/databases/pubfig/download/"

Presence = NDArray[np.bool_]
Table = NDArray[np.bool_]


@register_dataset("lfw")
@dataclass(frozen=True, kw_only=True)
class LFW(DataSet):
    """Huang, Ramesh, Berg, Learned-Miller 2007; deep-funneled by Huang, Mattar, Lee et al. 2012.

    Reads `lfw-deepfunneled/`, `labels.csv` and one `lfw_attributes*.txt` (Kumar, Berg, Belhumeur,
    Nayar 2009). Rows without their image are left out. Properties: gender (Male), glasses
    (Eyeglasses), smile (Smiling), young (Young, or Youth); main tasks: the attributes of
    `lfw_attributes*.txt`, spaces written as `_`. The identity is the person's name.

    Attributes:
        labels: source of the properties. `csv`: `labels.csv` (columns path, Male, Eyeglasses,
            Smiling, Young of 1 or -1); other attributes come from `lfw_attributes*.txt`, if it
            exists. `columbia`: all from `lfw_attributes*.txt`, the scores of a classifier; positive
            means present.
        selection: `all` images, or those with `natural` or `balanced` in the column group of
            `labels.csv`; with labels `csv` only.
    """

    folder = "lfw"
    source = (
        f"lfw-deepfunneled from https://vis-www.cs.umass.edu/lfw/ and lfw_attributes.txt from "
        f"{COLUMBIA}"
    )
    properties = tuple(PROPERTIES)
    size = "13,233 faces of 5,749 people"
    terms = "research; no licence stated"

    labels: Literal["csv", "columbia"] = "csv"
    selection: Literal["all", "natural", "balanced"] = "all"

    def load(self, data_root: Path | None, size: int) -> Individuals:
        """Return the faces whose image exists, in the order of the label file."""
        assert data_root is not None
        folder = data_root / self.folder
        paths, names, table, left_out = self._listed(folder)
        files = [inside(folder, path, folder) for path in paths]
        rows = existing_files(files, folder / IMAGES, self.source)
        left_out[ABSENT] = len(files) - len(rows)
        attributes = {name: table[rows, i] for i, name in enumerate(names)}
        people = [PurePosixPath(paths[i]).parent.name for i in rows]
        return individuals_from_files(
            names=[paths[i] for i in rows],
            files=[files[i] for i in rows],
            attributes={**_properties(attributes, folder), **attributes},
            identities=np.unique(people, return_inverse=True)[1].astype(np.int64),
            crop=FACE,
            size=size,
            left_out=left_out,
        )

    def attribute_names(self, data_root: Path | None) -> tuple[str, ...] | None:
        """Return the properties and the columns of the label files."""
        if data_root is None:
            return None
        scores = _score_file(data_root / self.folder)
        scored = [] if scores is None else _score_names(scores, read_lines(scores))
        own = [] if self.labels == "columbia" else [known[0] for known in PROPERTIES.values()]
        return (*PROPERTIES, *own, *(name for name in scored if name not in own))

    def main_tasks(self) -> Mapping[str, str]:
        """Return the same tasks as CelebA's."""
        return {
            "2-class": "Mouth_Slightly_Open",
            "8-class": "Mouth_Slightly_Open+Black_Hair+Bangs",
        }

    def _listed(self, folder: Path) -> tuple[list[str], list[str], Table, dict[str, int]]:
        """Return image paths, attribute names, presence (images, names), and left-out counts."""
        scores = _score_file(folder)
        if self.labels == "csv":
            paths, names, table, others = self._csv(folder)
            left_out = {f"not in selection {self.selection!r}": others}
            if scores is not None:
                listed = len(paths)
                paths, names, table = _joined(paths, names, table, scores)
                left_out[f"not in {scores.name}"] = listed - len(paths)
            return paths, names, table, left_out
        if self.selection != "all":
            raise UsageError(
                "dataset.selection of lfw is a column of labels.csv; leave it at `all` with "
                "dataset.labels=columbia"
            )
        if scores is None:
            raise UsageError(
                f"label file {folder / SCORES} not found; get it from {COLUMBIA}, or use "
                f"labels.csv with --set dataset.labels=csv"
            )
        return *_columbia(scores), {}

    def _csv(self, folder: Path) -> tuple[list[str], list[str], Table, int]:
        """Return paths, attribute names, presence, and the number of rows not selected."""
        path = folder / "labels.csv"
        if not path.is_file():
            raise UsageError(
                f"label file {path} not found; make it, or use Columbia's lfw_attributes.txt with "
                f"--set dataset.labels=columbia"
            )
        rows = csv.DictReader(read_lines(path), strict=True)
        try:
            return self._selected(path, rows)
        except csv.Error as error:
            raise UsageError(
                f"{path} line {rows.line_num}: {error}; correct the row, e.g. a quotation mark "
                f"that is not closed"
            ) from None

    def _selected(
        self, path: Path, rows: csv.DictReader[str]
    ) -> tuple[list[str], list[str], Table, int]:
        """Return what `_csv` returns, from the rows of the file at `path`."""
        names = [known[0] for known in PROPERTIES.values()]
        wanted = ["path", *names, *(["group"] if self.selection != "all" else [])]
        missing = [column for column in wanted if column not in (rows.fieldnames or [])]
        if missing:
            raise UsageError(
                f"{path} has no column {', '.join(missing)} in its first line; it needs "
                f"{', '.join(wanted)}"
            )
        paths, table, others = [], [], 0
        listed: dict[str, list[str]] = {}
        for row in rows:
            values = [row[name] for name in names]
            if not row["path"] or not {"1", "-1"}.issuperset(values):
                raise UsageError(
                    f"{path} line {rows.line_num}: expected a path and values of 1 or -1, found "
                    f"{row['path']!r} and {', '.join(map(repr, values))}; correct or remove the row"
                )
            inside(path.parent, row["path"], path)
            if listed.setdefault(row["path"], values) != values:
                raise _contradicted(path, rows.line_num, row["path"])
            if self.selection in ("all", row.get("group")):
                paths.append(row["path"])
                table.append([value == "1" for value in values])
            else:
                others += 1
        return paths, names, np.array(table, dtype=np.bool_).reshape(-1, len(names)), others


def _properties(attributes: Mapping[str, Presence], folder: Path) -> dict[str, Presence]:
    """Return each property's presence by the property's name."""
    found = {}
    for name, known in PROPERTIES.items():
        own = next((each for each in known if each in attributes), None)
        if own is None:
            raise UsageError(
                f"{folder / SCORES} has no column {' or '.join(known)}; get the official file"
            )
        found[name] = attributes[own]
    return found


def _score_file(folder: Path) -> Path | None:
    found = sorted(folder.glob(SCORES))
    if len(found) > 1:
        raise UsageError(
            f"{folder} has {' and '.join(path.name for path in found)}; keep one of them there"
        )
    return found[0] if found else None


def _joined(
    paths: list[str], names: list[str], table: Table, scores: Path
) -> tuple[list[str], list[str], Table]:
    """Return the rows that also have scores, with the attributes that only the scores have."""
    scored, others, present_there = _columbia(scores)
    place = {path: i for i, path in enumerate(scored)}
    rows = [i for i, path in enumerate(paths) if path in place]
    new = [i for i, name in enumerate(others) if name not in names]
    more = present_there[[place[paths[i]] for i in rows]][:, new]
    return (
        [paths[i] for i in rows],
        [*names, *(others[i] for i in new)],
        np.concatenate([table[rows], more], axis=1),
    )


def _contradicted(path: Path, line: int, image: str) -> UsageError:
    return UsageError(
        f"{path} line {line}: {image} is listed before with other values; remove one of the lines"
    )


def _score_names(path: Path, lines: Iterator[str]) -> list[str]:
    """Return the attributes that the first two lines name; the others are left in `lines`."""
    next(lines, "")
    header = next(lines, "").lstrip("#").strip().split("\t")
    if header[:2] != ["person", "imagenum"] or len(header) < 3:
        raise UsageError(
            f"{path} line 2 does not name the columns person, imagenum and attributes, separated "
            f"by tabs; get the official file"
        )
    return [name.strip().replace(" ", "_") for name in header[2:]]


def _columbia(path: Path) -> tuple[list[str], list[str], Table]:
    """Return image paths, attribute names and presence, shape (images, names)."""
    lines = read_lines(path)
    names = _score_names(path, lines)
    paths, table = [], []
    listed: dict[str, list[bool]] = {}
    for number, line in enumerate(lines, start=3):
        person, *rest = line.rstrip("\n").split("\t")
        try:
            image, *values = int(rest[0]), *map(float, rest[1:])
        except (IndexError, ValueError):
            values = []
        if not person or len(values) != len(names) or not all(map(math.isfinite, values)):
            raise UsageError(
                f"{path} line {number}: expected a person, a number and {len(names)} scores, "
                f"separated by tabs, found {len(line.split(chr(9)))} fields; get the official file"
            )
        name = person.strip().replace(" ", "_")
        paths.append(f"{IMAGES}/{name}/{name}_{image:04d}.jpg")
        table.append([value > 0 for value in values])
        if listed.setdefault(paths[-1], table[-1]) != table[-1]:
            raise _contradicted(path, number, paths[-1])
    return paths, names, np.array(table, dtype=np.bool_).reshape(-1, len(names))
