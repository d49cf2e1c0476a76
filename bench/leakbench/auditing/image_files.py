"""Labelled images from a folder with a CSV file, or from a safetensors file."""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from leakbench.auditing.labelled_images import LabelledImages
from leakbench.auditing.model_loading import load_tensors
from leakbench.base.errors import UsageError
from leakbench.base.files import read_regular
from leakbench.base.markdown import one_line
from leakbench.base.seeds import seed_for
from leakbench.data.images import inside
from leakbench.data.pixels import read_image

if TYPE_CHECKING:
    import pandas as pd

PRESENT = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def read_labelled_images(source: Path, size: int | None, role: str) -> LabelledImages:
    """Return labelled images from a folder with a CSV file, or from a safetensors file.

    The CSV file has a line for each image: a column `file`, those of `label`, `identity` and
    `update` that are known, and a column for each property, 1 where it is present and 0 where it
    is absent. A label is a class, or numbers with | between them. The safetensors file has the
    tensors `images` (`inputs` for rows or token ids), those of `labels` and `identities` that are
    known, and one for each property. Images have one channel if all of a folder are grey, else
    three.

    Args:
        size: height and width to which images are resized; None to leave them as they are.
        role: `D_aux`, `the truth` or `the training data`, for messages.

    Raises:
        UsageError: something is missing or malformed.
    """
    if source.is_dir():
        return _read_folder(source, size, role)
    tensors, _ = load_tensors(source, role)
    name = next((each for each in ("images", "inputs") if each in tensors), None)
    if name is None:
        raise UsageError(f"{role} {source} has no tensor 'images' or 'inputs'")
    return LabelledImages(
        images=tensors.pop(name),
        labels=tensors.pop("labels", None),
        identities=tensors.pop("identities", None),
        properties=tensors,
    )


def _read_folder(folder: Path, size: int | None, role: str) -> LabelledImages:
    import pandas as pd

    tables = sorted(folder.glob("*.csv"))
    if len(tables) != 1:
        raise UsageError(
            f"{role} {folder} must hold one CSV file beside the images, but holds {len(tables)}"
        )
    try:
        table = pd.read_csv(
            BytesIO(read_regular(tables[0])),
            dtype=str,
            keep_default_na=False,
            skipinitialspace=True,
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"{tables[0]} cannot be read as CSV ({one_line(str(error))})") from error
    if "file" not in table or not len(table):
        raise UsageError(f"{tables[0]} needs a column `file` and a line for each image")
    files = [inside(folder, name, tables[0]) for name in table.pop("file")]
    labels = _labels(table, tables[0])
    identities = _identities(table)
    updates = list(table.pop("update")) if "update" in table else None
    images = [_image(file, size) for file in files]
    channels = max(len(image) for image in images)
    images = [image.expand(channels, -1, -1) for image in images]
    sizes = {tuple(image.shape[1:]) for image in images}
    if len(sizes) > 1:
        raise UsageError(f"images in {folder} are of different sizes; give image_size")
    return LabelledImages(
        images=torch.stack(images),
        properties={name: _presence(table, name, tables[0]) for name in table.columns},
        labels=labels,
        identities=identities,
        updates=updates,
        names=[file.relative_to(folder).as_posix() for file in files],
    )


def _labels(table: pd.DataFrame, path: Path) -> Tensor | None:
    """Return classes, or of each individual several numbers, such as `1|0|1` for a set of labels.

    Raises:
        UsageError: an entry is neither, or has more or fewer numbers than another.
    """
    if "label" not in table:
        return None
    written = list(table.pop("label"))
    try:
        if not any("|" in each for each in written):
            return torch.tensor([int(each) for each in written])
        return torch.tensor([[float(part) for part in each.split("|")] for each in written])
    except ValueError as error:
        raise UsageError(
            f"{path}, column `label`: {error}; write classes as 0, 1, …, and sets of labels or "
            f"soft labels as numbers with | between them, as many in each line"
        ) from error


def _identities(table: pd.DataFrame) -> Tensor | None:
    """Return a number for each person, the same for the same name in any file.

    Other tools write the number 7 as `7.0`, where a column has gaps, or with spaces around it.
    """
    if "identity" not in table:
        return None
    return torch.tensor([seed_for("identity", _name(name)) for name in table.pop("identity")])


def _name(written: str) -> str:
    name = written.strip()
    number = re.fullmatch(r"(\d+)\.0+", name)
    return number[1] if number else name


def _presence(table: pd.DataFrame, name: str, path: Path) -> Tensor:
    values = [value.strip().lower() for value in table[name]]
    first = next((value for value in values if value not in PRESENT), None)
    if first is not None:
        raise UsageError(
            f"{path}, column `{name}`: {first!r} is not 1 or 0; write one of them for each image"
        )
    return torch.tensor([PRESENT[value] for value in values])


def _image(file: Path, size: int | None) -> Tensor:
    """Return one image in [0, 1], with one channel if it is grey.

    It is not cached: what is audited is private.
    """
    from PIL import Image

    try:
        whole = read_image(file, upright=True)
    except ValueError as error:
        raise UsageError(f"image {file} cannot be decoded ({one_line(str(error))})") from error
    if size is not None:
        whole = whole.resize((size, size), Image.Resampling.BILINEAR)
    pixels = torch.from_numpy(np.array(whole)).float() / 255
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
