"""Labelled images, rows or texts of individuals, D_aux and the truth, and whether they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal

import torch
from torch import Tensor

from leakbench.base.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images of individuals, or other data of theirs, and what is known of them.

    Attributes:
        images: in [0, 1], shape (n, channels, height, width). For a model of other data: rows of a
            table as the model takes them, floating-point numbers of shape (n, d), or token ids,
            integers of shape (n, t). For a model of several inputs: a tuple of tensors, or a dict
            of them by the arguments' names, with a row for each individual.
        properties: property → presence, shape (n,) each.
        labels: main-task classes, shape (n,); or what the loss compares each of K logits with,
            such as class probabilities or a set of labels, shape (n, K); None where they are not
            known.
        identities: of the people shown, shape (n,); equal numbers mean the same person, across
            D_aux and the truth; None if each image shows a different person.
        updates: of the truth, the name of the update that each individual is in, empty or None for
            those that are in none; None for consecutive batches whose updates were not captured.
        names: of the individuals; None for their numbers.
    """

    images: Tensor  # Several inputs become one before anything else looks at them.
    properties: Mapping[str, Tensor]
    labels: Tensor | None = None
    identities: Tensor | None = None
    updates: Sequence[str | int | None] | None = None
    names: Sequence[str] | None = None

    def __len__(self) -> int:
        inputs: Any = self.images
        if isinstance(inputs, Mapping):
            inputs = tuple(inputs.values())
        return len(inputs[0] if isinstance(inputs, tuple) and inputs else inputs)


Kind = Literal["images", "rows", "token ids"]
"""What a model takes: images, rows of a table, or texts."""


def kind_of(inputs: Tensor) -> Kind:
    """Return what inputs are, by their shape and type.

    >>> import torch
    >>> kind_of(torch.rand(2, 3, 8, 8)), kind_of(torch.rand(2, 5)), kind_of(torch.arange(4)[None])
    ('images', 'rows', 'token ids')
    """
    if inputs.ndim != 2:
        return "images"
    return "rows" if inputs.is_floating_point() else "token ids"


def check_labels_and_properties(
    labelled: LabelledImages, role: str, properties: Sequence[str], classes: int
) -> LabelledImages:
    """Return images with only the given properties, as booleans, and labels as integers.

    Args:
        role: `D_aux` or `the truth`, for messages.
        classes: number of the model's classes.

    Raises:
        UsageError: a property or row is missing, or a label is no class.
    """
    for name in properties:
        check_property(labelled, role, name)
    for name, column in (("labels", labelled.labels), ("identities", labelled.identities)):
        if column is not None:
            _check_shape(labelled, role, name, column)
    for name, given in (("names", labelled.names), ("updates", labelled.updates)):
        if given is not None and len(given) != len(labelled):
            raise UsageError(
                f"{name!r} of {role} has {len(given)} entries, but there are {len(labelled)} "
                f"images; give one for each"
            )
    if labelled.labels is not None:
        _check_labels(labelled, role, classes)
    identities = labelled.identities
    if identities is not None and not bool((identities == identities.long()).all()):
        raise UsageError(f"identities of {role} must be whole numbers")
    return replace(
        labelled,
        labels=None if labelled.labels is None else labelled.labels.long(),
        identities=None if identities is None else identities.long(),
        properties={name: labelled.properties[name].bool() for name in properties},
        updates=None
        if labelled.updates is None
        else ["" if name is None else str(name) for name in labelled.updates],
    )


def check_property(labelled: LabelledImages, role: str, name: str) -> None:
    """Refuse a property that is missing, or not 0 or 1 for each individual.

    Raises:
        UsageError: the property is missing or malformed.
    """
    if name not in labelled.properties:
        known = list(labelled.properties)
        near = get_close_matches(name, known, n=3, cutoff=0.4) or known
        raise UsageError(f"{role} has no property {name!r}; it has {', '.join(near) or 'none'}")
    column = labelled.properties[name]
    _check_shape(labelled, role, name, column)
    if not bool(((column == 0) | (column == 1)).all()):
        raise UsageError(f"property {name!r} of {role} must be 0 or 1 for each individual")


def check_varies(labelled: LabelledImages, role: str, name: str) -> None:
    """Refuse a property that all individuals have, or none.

    Raises:
        UsageError: the property does not vary.
    """
    present = labelled.properties[name].bool()
    if bool(present.all()) or not bool(present.any()):
        raise UsageError(
            f"in {role} the property {name!r} is {'always' if present.any() else 'never'} "
            f"present, so that it cannot be learned; add individuals with"
            f"{'out' if present.any() else ''} it"
        )


def _check_shape(labelled: LabelledImages, role: str, name: str, column: Tensor) -> None:
    if tuple(column.shape) != (len(labelled),):
        raise UsageError(
            f"{name!r} of {role} has shape {tuple(column.shape)}, but there are {len(labelled)} "
            f"images; give one value for each"
        )


def check_images(labelled: LabelledImages, role: str) -> LabelledImages:
    """Return the images in single precision, so that equal ones compare equal; token ids as int64.

    Raises:
        UsageError: there are none, they have another shape or type, pixels are outside [0, 1], rows
            are not finite, or token ids negative.
    """
    images, kind = labelled.images, kind_of(labelled.images)
    floating, integers = images.is_floating_point(), images.dtype in INTEGERS
    if (kind == "token ids" and not integers) or (
        kind == "images" and not (floating and images.ndim == IMAGES_NDIM)
    ):
        raise UsageError(
            f"images of {role} must be floating-point numbers of shape (individuals, channels, "
            f"height, width), or rows of shape (individuals, columns), or token ids, integers of "
            f"shape (individuals, tokens), not {images.dtype} of shape {tuple(images.shape)}"
        )
    if not images.numel():
        raise UsageError(f"{role} has no {kind}; give at least one")
    if kind == "token ids":
        if bool((images < 0).any()):
            raise UsageError(f"token ids of {role} must be 0 or more; pad with a token of its own")
        return replace(labelled, images=images.long())
    if kind == "rows":
        if not bool(images.isfinite().all()):
            raise UsageError(
                f"rows of {role} hold NaN or infinity; fill gaps as clients do before training"
            )
        return replace(labelled, images=images.float())
    if not bool(images.isfinite().all()) or bool(((images < 0) | (images > 1)).any()):
        raise UsageError(
            f"pixels of {role} must be in [0, 1]; give images as they are before scaling, and the "
            f"scaling as pixel_mean and pixel_deviation"
        )
    return replace(labelled, images=images.float())


IMAGES_NDIM = 4
"""Axes of images."""

INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
"""Types of token ids."""

KINDS_IN_WORDS: Mapping[Kind, tuple[str, str]] = {
    "images": ("image", ""),
    "rows": ("row", ", or give both identities, if they are different people"),
    "token ids": ("tokens", ", or give both identities, if they are different people"),
}
"""One of a kind, and what else to do where two are equal."""


def _check_labels(labelled: LabelledImages, role: str, classes: int) -> None:
    assert labelled.labels is not None
    labels = labelled.labels
    right = (labels >= 0) & (labels < classes) & (labels == labels.long())
    wrong = (~right).nonzero().flatten()
    if len(wrong):
        row = int(wrong[0])
        raise UsageError(
            f"label {labels[row].item()} of {name_of(labelled, row)} in {role} is no class: the "
            f"model has {classes}, from 0 to {classes - 1}"
        )


def check_disjoint_identities(labelled: LabelledImages, truth: LabelledImages, role: str) -> None:
    """Refuse D_aux or training data that share an individual with the truth.

    No server has the victims' own images. Rows and texts of different people may be equal, which
    identities tell.

    Args:
        role: `D_aux` or `the training data`, for messages.

    Raises:
        UsageError: an image or identity is in both; the message names the first.
    """
    identified = labelled.identities is not None and truth.identities is not None
    kind = kind_of(labelled.images)
    compared = kind == "images" or not identified
    seen = {image.numpy().tobytes() for image in labelled.images.cpu() if compared}
    what, instead = KINDS_IN_WORDS[kind]
    for row, image in enumerate(truth.images.cpu()):
        if image.numpy().tobytes() in seen:
            raise UsageError(
                f"{name_of(truth, row)} of the truth is in {role} too, with the same {what}; leave "
                f"the individuals of the truth out of {role}{instead}"
            )
    if labelled.identities is not None and truth.identities is not None:
        both = set(labelled.identities.tolist()) & set(truth.identities.tolist())
        if both:
            row = next(i for i, who in enumerate(truth.identities.tolist()) if who in both)
            raise UsageError(
                f"{name_of(truth, row)} of the truth is a person that {role} shows too (identity "
                f"{int(truth.identities[row])}); leave the individuals of the truth out of {role}"
            )


def name_of(labelled: LabelledImages, row: int) -> str:
    """Return the name of an individual, or its number."""
    return labelled.names[row] if labelled.names is not None else f"individual {row + 1}"
