"""D_aux and the truth: images of people with what is known of them, from files or tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from leakbench.auditing.model_loading import load_tensors
from leakbench.base.errors import UsageError
from leakbench.data.images import inside

if TYPE_CHECKING:
    import pandas as pd

PRESENT = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images of individuals, and what is known of them.

    Attributes:
        images: in [0, 1], shape (n, channels, height, width).
        properties: property → presence, shape (n,) each.
        labels: main-task classes, shape (n,); None where they are not known.
        identities: who is shown, shape (n,); equal numbers mean the same person, in D_aux and in
            the truth alike; None for somebody else on each image.
        updates: of the truth, the name of the update that each individual is in; None for batches
            in the order of the rows, of which no update was captured.
        names: of the individuals; None for their numbers.
    """

    images: Tensor
    properties: Mapping[str, Tensor]
    labels: Tensor | None = None
    identities: Tensor | None = None
    updates: Sequence[str] | None = None
    names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.images)


def check_people(
    people: LabelledImages, what: str, properties: Sequence[str], classes: int
) -> LabelledImages:
    """Return people with the wanted properties alone, as booleans, and labels as whole numbers.

    Args:
        what: `D_aux` or `the truth`, for messages.

    Raises:
        UsageError: a property or row is missing, pixels leave [0, 1], or a label is no class.
    """
    for name in properties:
        check_property(people, what, name)
    for name, column in (("labels", people.labels), ("identities", people.identities)):
        if column is not None:
            _check_shape(people, what, name, column)
    for name, given in (("names", people.names), ("updates", people.updates)):
        if given is not None and len(given) != len(people):
            raise UsageError(
                f"{name!r} of {what} has {len(given)} entries, but there are {len(people)} images; "
                f"give one for each"
            )
    if people.labels is not None:
        _check_labels(people, what, classes)
    identities = people.identities
    if identities is not None and not bool((identities == identities.long()).all()):
        raise UsageError(f"identities of {what} must be whole numbers")
    return replace(
        people,
        labels=None if people.labels is None else people.labels.long(),
        identities=None if identities is None else identities.long(),
        properties={name: people.properties[name].bool() for name in properties},
    )


def check_property(people: LabelledImages, what: str, name: str) -> None:
    """Refuse a property that people do not have, or not as 0 or 1 each.

    Raises:
        UsageError: says which.
    """
    if name not in people.properties:
        known = list(people.properties)
        near = get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise UsageError(f"{what} has no property {name!r}; it has {', '.join(near) or 'none'}")
    column = people.properties[name]
    _check_shape(people, what, name, column)
    if not bool(((column == 0) | (column == 1)).all()):
        raise UsageError(f"property {name!r} of {what} must be 0 or 1 for everybody")


def check_varies(people: LabelledImages, what: str, name: str) -> None:
    """Refuse a property that all have, or nobody.

    Raises:
        UsageError: says which.
    """
    present = people.properties[name].bool()
    if bool(present.all()) or not bool(present.any()):
        raise UsageError(
            f"in {what} the property {name!r} is {'always' if present.any() else 'never'} "
            f"present, so that nothing can be learnt of it; add individuals with"
            f"{'out' if present.any() else ''} it"
        )


def _check_shape(people: LabelledImages, what: str, name: str, column: Tensor) -> None:
    if tuple(column.shape) != (len(people),):
        raise UsageError(
            f"{name!r} of {what} has shape {tuple(column.shape)}, but there are {len(people)} "
            f"images; give one value for each"
        )


def check_images(people: LabelledImages, what: str) -> LabelledImages:
    """Return people with their images in single precision, so that equal ones are found equal.

    Raises:
        UsageError: there are none, they have another shape, or pixels leave [0, 1].
    """
    images = people.images
    if images.ndim != 4 or not images.is_floating_point():
        raise UsageError(
            f"images of {what} must be floating-point numbers of shape (individuals, channels, "
            f"height, width), not {images.dtype} of shape {tuple(images.shape)}"
        )
    if not len(images):
        raise UsageError(f"{what} shows nobody; give at least one image")
    if not bool(images.isfinite().all()) or bool(((images < 0) | (images > 1)).any()):
        raise UsageError(
            f"pixels of {what} must be in [0, 1]; hand images over as they are before scaling, and "
            f"name that by pixel_mean and pixel_deviation"
        )
    return replace(people, images=images.float())


def _check_labels(people: LabelledImages, what: str, classes: int) -> None:
    assert people.labels is not None
    labels = people.labels
    right = (labels >= 0) & (labels < classes) & (labels == labels.long())
    wrong = (~right).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise UsageError(
            f"label {labels[row].item()} of {name_of(people, row)} in {what} is no class: the "
            f"model has {classes}, from 0 to {classes - 1}"
        )


def check_disjoint_identities(people: LabelledImages, truth: LabelledImages, what: str) -> None:
    """Refuse people of whom the truth shows some: no server has the victims' own images.

    Args:
        what: `D_aux` or `the training data`.

    Raises:
        UsageError: names the first.
    """
    seen = {image.numpy().tobytes() for image in people.images.cpu()}
    for row, image in enumerate(truth.images.cpu()):
        if image.numpy().tobytes() in seen:
            raise UsageError(
                f"{name_of(truth, row)} of the truth is in {what} too, with the same image; leave "
                f"the individuals of the truth out of {what}"
            )
    if people.identities is not None and truth.identities is not None:
        both = set(people.identities.tolist()) & set(truth.identities.tolist())
        if both:
            row = next(i for i, who in enumerate(truth.identities.tolist()) if who in both)
            raise UsageError(
                f"{name_of(truth, row)} of the truth is a person whom {what} shows too (identity "
                f"{int(truth.identities[row])}); leave the individuals of the truth out of {what}"
            )


def name_of(people: LabelledImages, row: int) -> str:
    """Return what to call an individual."""
    return people.names[row] if people.names is not None else f"individual {row + 1}"


def read_people(source: Path, size: int | None, what: str) -> LabelledImages:
    """Return people from a folder of images with a CSV file, or from a safetensors file.

    The CSV file has a line for each image: `file`, and of `label`, `identity` and `update` those
    that are known; every other column is a property, 1 where present and 0 where absent. The
    safetensors file has `images`, and of `labels` and `identities` those that are known; every
    other tensor is a property.

    Args:
        size: height and width to which images are resized; None to leave them as they are.

    Raises:
        UsageError: something is missing or malformed.
    """
    if source.is_dir():
        return _of_folder(source, size, what)
    tensors, _ = load_tensors(source, what)
    if "images" not in tensors:
        raise UsageError(f"{what} {source} has no tensor 'images'")
    return LabelledImages(
        images=tensors.pop("images"),
        labels=tensors.pop("labels", None),
        identities=tensors.pop("identities", None),
        properties=tensors,
    )


def _of_folder(folder: Path, size: int | None, what: str) -> LabelledImages:
    import pandas as pd

    tables = sorted(folder.glob("*.csv"))
    if len(tables) != 1:
        raise UsageError(
            f"{what} {folder} must hold one CSV file beside the images, but holds {len(tables)}"
        )
    try:
        table = pd.read_csv(tables[0], dtype=str, keep_default_na=False, skipinitialspace=True)
    except (OSError, ValueError) as error:
        raise UsageError(f"{tables[0]} cannot be read as CSV ({error})") from error
    if "file" not in table or not len(table):
        raise UsageError(f"{tables[0]} needs a column `file` and a line for each image")
    files = [inside(folder, name, tables[0]) for name in table.pop("file")]
    labels = _numbers(table, "label", tables[0])
    people = _persons(table)
    updates = list(table.pop("update")) if "update" in table else None
    images = [_image(file, size) for file in files]
    sizes = {tuple(image.shape[1:]) for image in images}
    if len(sizes) > 1:
        raise UsageError(f"images in {folder} are of different sizes; say image_size")
    return LabelledImages(
        images=torch.stack(images),
        properties={name: _presence(table, name, tables[0]) for name in table.columns},
        labels=labels,
        identities=people,
        updates=updates,
        names=[file.relative_to(folder).as_posix() for file in files],
    )


def _numbers(table: pd.DataFrame, column: str, path: Path) -> Tensor | None:
    if column not in table:
        return None
    try:
        return torch.tensor([int(value) for value in table.pop(column)])
    except ValueError as error:
        raise UsageError(f"{path}, column `{column}`: {error}; write classes as 0, 1, …") from error


def _persons(table: pd.DataFrame) -> Tensor | None:
    """Return numbers that are the same for the same name of a person, in whichever file."""
    if "identity" not in table:
        return None
    from leakbench.base.seeds import seed_for

    return torch.tensor([seed_for("identity", str(name)) for name in table.pop("identity")])


def _presence(table: pd.DataFrame, name: str, path: Path) -> Tensor:
    values = [value.strip().lower() for value in table[name]]
    wrong: Iterable[str] = (value for value in values if value not in PRESENT)
    if (first := next(iter(wrong), None)) is not None:
        raise UsageError(
            f"{path}, column `{name}`: {first!r} is no presence; write 1 or 0 for everybody"
        )
    return torch.tensor([PRESENT[value] for value in values])


def _image(file: Path, size: int | None) -> Tensor:
    """Return one image in [0, 1]. It goes through no cache: what is audited is private."""
    from PIL import Image

    try:
        with Image.open(file) as image:
            whole = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UsageError(f"image {file} cannot be decoded ({error})") from error
    if size is not None:
        whole = whole.resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(whole)).permute(2, 0, 1).float() / 255
