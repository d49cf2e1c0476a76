"""UTKFace, aligned and cropped, complete or as a subset of images."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from leakbench.base.errors import UsageError
from leakbench.base.registry import register_dataset
from leakbench.data.dataset import DataSet, Individuals
from leakbench.data.images import Box
from leakbench.datasets.reading.files import individuals_from_files

MATCHED: Box = (-67, -100, 267, 234)
"""The square that gives UTKFace's faces the scale of CelebA's and LFW's.

Measured on the mean faces of 1,200 images of each: the square of a UTKFace image that correlates
best with CelebA's mean face is 348 pixels wide, with LFW's 320; this is the mean of both. The
images have 200 pixels, so that nearly two thirds of the square are outside.
"""

WHOLE: Box = (0, 0, 200, 200)

RACES = ("white", "black", "asian", "indian", "other_race")
OLDEST = 120

LABELLED = re.compile(r"([0-9]+)_([0-9]+)_([0-9]+)_[0-9]{8,}\D*jpg")
INCOMPLETE = re.compile(r"([0-9]+_){0,2}[0-9]{8,}\D*jpg")
"""After the date several official names have typing errors, such as `jpg.chip.jpg`."""


@register_dataset("utkface")
@dataclass(frozen=True, kw_only=True)
class UTKFace(DataSet):
    """Zhang, Song, Qi 2017, Age Progression/Regression by Conditional Adversarial Autoencoder.

    Reads `UTKFace/*.jpg`; the labels are in the names, `AGE_GENDER_RACE_DATE.jpg.chip.jpg`. Files
    whose name lacks a label, as three official ones do, are left out. Properties: gender (0 in the
    name: male) and young; glasses and smile are not labelled. Main tasks: the races, `white`,
    `black`, `asian`, `indian`, `other_race`.

    The person is not known: each image is a separate identity, and images of the same person may be
    on both sides of the split.

    Attributes:
        young_below: young means an age below this, in years. CelebA's and LFW's `Young` is an
            impression, not an age.
        framing: `whole` images, whose faces are 1.67 times as large as CelebA's and LFW's at the
            same image size; or `matched`, at their scale, where nearly two thirds of the image
            repeat border pixels, which makes images easier to reconstruct.
    """

    folder = "utkface"
    source = "the aligned and cropped faces from https://susanqq.github.io/UTKFace/, as UTKFace/,"
    properties = ("gender", "young")
    size = "23,708 faces"
    terms = "non-commercial research"

    young_below: Annotated[int, Field(ge=1, le=OLDEST)] = 40
    framing: Literal["whole", "matched"] = "whole"

    def load(self, data_root: Path | None, size: int) -> Individuals:
        """Return the labelled faces in the order of their names."""
        assert data_root is not None
        folder = data_root / self.folder / "UTKFace"
        if not folder.is_dir():
            raise UsageError(f"folder {folder} not found; get {self.source}")
        names = sorted(entry.name for entry in os.scandir(folder) if "jpg" in entry.name)
        labels = {name: _labels(folder, name) for name in names}
        kept = [name for name in names if labels[name] is not None]
        if not kept:
            raise UsageError(
                f"{folder} has no image named AGE_GENDER_RACE_DATE.jpg; get {self.source}"
            )
        age, gender, race = np.array([labels[name] for name in kept], dtype=np.int64).T
        return individuals_from_files(
            names=kept,
            files=[folder / name for name in kept],
            attributes={
                "gender": gender == 0,
                "young": age < self.young_below,
                **{name: race == i for i, name in enumerate(RACES)},
            },
            identities=np.arange(len(kept), dtype=np.int64),
            crop=MATCHED if self.framing == "matched" else WHOLE,
            size=size,
            fit="extended" if self.framing == "matched" else "inside",
            left_out={"name lacks age, gender or race": len(names) - len(kept)},
        )

    def attribute_names(self, data_root: Path | None) -> tuple[str, ...]:  # noqa: ARG002
        """Return those that file names hold."""
        return (*self.properties, *RACES)

    def main_tasks(self) -> Mapping[str, str]:
        """Return a task that is not a property; the names have none of eight classes."""
        return {"2-class": "white"}


def _labels(folder: Path, name: str) -> tuple[int, int, int] | None:
    """Return age, gender and race; None for a name that lacks one of them."""
    found = LABELLED.fullmatch(name)
    if found is None:
        if INCOMPLETE.fullmatch(name):
            return None
    else:
        age, gender, race = (int(found[i]) for i in (1, 2, 3))
        if age <= OLDEST and gender <= 1 and race < len(RACES):
            return age, gender, race
    raise UsageError(
        f"image {folder / name} is not named AGE_GENDER_RACE_DATE.jpg with an age up to {OLDEST}, "
        f"gender 0 or 1 and race 0 to {len(RACES) - 1}; rename or remove it"
    )
