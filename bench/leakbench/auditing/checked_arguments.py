"""The types of an audit's arguments, checked before any work."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.export import ExportedProgram

from leakbench.auditing.labelled_images import LabelledImages
from leakbench.auditing.training import FederatedTraining
from leakbench.base.errors import UsageError
from leakbench.base.limits import MOST, MOST_PIXELS

ABSENT = type(None)

EXPECTED: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "model": (
        (nn.Module, ExportedProgram),
        "a torch.nn.Module with its weights, or a program of torch.export",
    ),
    "split": ((str, ABSENT), 'the name of a submodule, such as "features", or None'),
    "updates": (
        (Mapping, Path, str, Sequence, ABSENT),
        "a dict of the updates by client, or a folder of safetensors files",
    ),
    "auxiliary": (
        (LabelledImages, Path, str, ABSENT),
        "LabelledImages, or the folder to read them from",
    ),
    "truth": (
        (LabelledImages, Path, str, ABSENT),
        "LabelledImages, or the folder to read them from",
    ),
    "loss": ((Callable, ABSENT), "a loss such as nn.CrossEntropyLoss(), or None"),
    "training": (
        (FederatedTraining, Callable, ABSENT),
        "FederatedTraining, or a function that trains",
    ),
    "budget": ((int,), f"a whole number of gradient evaluations above 0, {MOST} at most"),
    "hardest": ((int,), "a whole number of individuals to report apart, or 0"),
    "time_limit": ((int, float, ABSENT), "minutes above 0, or None"),
    "image_size": ((int, ABSENT), "a whole number of pixels, or None"),
    "logits": ((str, int, ABSENT), "a key, field or place in the model's output, or None"),
    "name": ((str,), "the model's name as text"),
    "defense": ((Mapping, ABSENT), 'a table such as {"name": "gaussian", "sigma": 0.01}, or None'),
    "attacks": ((Iterable, ABSENT), 'a list of names, such as ["mask_demixing"], or None'),
    "defenses": ((Iterable, ABSENT), 'a list of names or tables, such as ["gaussian"], or None'),
    "properties": ((Iterable,), "a list of names"),
    "label_names": ((Iterable,), "a list of names"),
    "pixel_mean": ((Sequence,), "a list of one number for all channels, or one for each"),
    "pixel_deviation": ((Sequence,), "a list of one number for all channels, or one for each"),
}
"""Argument → the types that it may have, and what to give, in words."""

LISTS = ("properties", "attacks", "defenses", "label_names")
"""Of a text in place of a list the letters would be taken one by one."""


def check_arguments(**given: Any) -> None:
    """Refuse arguments of `audit` of another type than it takes, or without which it has no task.

    Args:
        given: every argument in `EXPECTED`.

    Raises:
        UsageError: there is one; the message names it, and what to give.
    """
    for name, value in given.items():
        types, instead = EXPECTED[name]
        if name in LISTS and isinstance(value, str):
            raise UsageError(f'{name}="{value}" is one text; give a list, {name}=["{value}"]')
        if isinstance(value, types):
            continue
        if isinstance(value, nn.Module) and name == "split":
            raise UsageError(f"split is a {type(value).__name__}; give {instead}")
        raise UsageError(f"{name} is of type {type(value).__name__}; give {instead}")
    if not 0 < given["budget"] <= MOST:
        raise UsageError(f"budget is {given['budget']}; give {EXPECTED['budget'][1]}")
    if given["split"] == "":
        raise UsageError(f"split is empty; give {EXPECTED['split'][1]}")
    if given["image_size"] is not None and not 0 < given["image_size"] <= MOST_PIXELS:
        raise UsageError(
            f"image_size is {given['image_size']}; give the height and width of images in pixels, "
            f"1 to {MOST_PIXELS}"
        )
    if given["updates"] is None and given["truth"] is None:
        raise UsageError("there is nothing to audit: give updates, or the truth to compute some of")
    if given["auxiliary"] is None:
        raise UsageError("give auxiliary: D_aux, labelled images of people in no client's data")
    if not given["properties"]:
        raise UsageError("give at least one property to infer")
    for role, argument in (("D_aux", "auxiliary"), ("the truth", "truth")):
        if isinstance(given[argument], LabelledImages):
            _check_tensors(given[argument], role)


def _check_tensors(labelled: LabelledImages, role: str) -> None:
    """Refuse lists and NumPy arrays in place of tensors."""
    inputs: Any = labelled.images
    properties: Any = labelled.properties
    several = isinstance(inputs, tuple | Mapping)
    columns: dict[str, Any] = {} if several else {"images": inputs}
    if not isinstance(properties, Mapping):
        kind = type(properties).__name__
        raise UsageError(
            f"properties of {role} are of type {kind}; give a dict of tensors by the properties' "
            f"names"
        )
    columns |= {"labels": labelled.labels, "identities": labelled.identities}
    columns |= {f"property {name!r}": value for name, value in properties.items()}
    for name, value in columns.items():
        if value is not None and not isinstance(value, Tensor):
            raise UsageError(
                f"{name} of {role} is of type {type(value).__name__}; make it a tensor, such as "
                f"with torch.as_tensor"
            )


def paths_or_tensors(updates: Any) -> Any:
    """Return updates whose paths, if they are paths, are `Path`.

    Raises:
        UsageError: they are a list of something else.
    """
    if isinstance(updates, str):
        return Path(updates)
    if updates is None or isinstance(updates, Path | Mapping):
        return updates
    other = next((each for each in updates if not isinstance(each, str | Path)), None)
    if other is not None:
        raise UsageError(
            f"updates is a list of {type(other).__name__}; give {EXPECTED['updates'][1]}"
        )
    return [Path(each) for each in updates]


def batch_sizes(given: Any) -> int | list[int] | None:
    """Return the batch size of all updates, or of each; None where it is not given.

    Integers of NumPy's and PyTorch's are taken as well.

    Raises:
        UsageError: it is no whole number, nor a list of them.
    """
    if given is None:
        return None
    try:
        return operator.index(given)
    except TypeError:
        pass
    try:
        return [operator.index(each) for each in given]
    except TypeError:
        raise UsageError(
            f"batch_size is {given!r}; give a whole number, or a list of one for each update"
        ) from None
