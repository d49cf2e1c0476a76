"""Models of several inputs: what they take of an individual is packed into one row of numbers."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from leakbench.auditing.copied_model import unwrapped
from leakbench.auditing.labelled_images import LabelledImages
from leakbench.base.errors import UsageError

WHOLE = 2**24
"""Integers up to this are exact in single precision."""


@dataclass(frozen=True)
class Part:
    """Where one input lies in a row.

    Attributes:
        name: of the argument; None for positional ones.
        start, end: of its numbers.
        shape: of one individual's input.
        dtype: as the model takes it.
    """

    name: str | None
    start: int
    end: int
    shape: tuple[int, ...]
    dtype: torch.dtype


def as_one_input(
    model: nn.Module | ExportedProgram, auxiliary: LabelledImages, truth: LabelledImages | None
) -> tuple[nn.Module | ExportedProgram, LabelledImages, LabelledImages | None]:
    """Return a model of one input, and D_aux and the truth for it, where there are several inputs.

    The returned model shares everything with the given one, and computes the same of packed rows.

    Raises:
        UsageError: the model is a saved program, inputs of D_aux and the truth differ, or an input
            cannot be packed.
    """
    held = [("D_aux", auxiliary), *([] if truth is None else [("the truth", truth)])]
    several = [role for role, each in held if not isinstance(each.images, Tensor)]
    if not several:
        return model, auxiliary, truth
    if len(several) < len(held):
        raise UsageError(f"{several[0]} has several inputs, and others have one; give both alike")
    if not isinstance(model, nn.Module):
        raise UsageError(
            "a saved program must take one tensor, and D_aux has several inputs; give the model as "
            "a module"
        )
    packed = {role: _packed(each, role) for role, each in held}
    parts = packed["D_aux"][1]
    for role, (_, others) in packed.items():
        if others != parts:
            raise UsageError(
                f"inputs of {role} are {_listed(others)}, those of D_aux {_listed(parts)}; give "
                f"both the same"
            )
    whole = None if truth is None else replace(truth, images=packed["the truth"][0])
    return (
        _unpacking(unwrapped(model), parts),
        replace(auxiliary, images=packed["D_aux"][0]),
        whole,
    )


def _packed(labelled: LabelledImages, role: str) -> tuple[Tensor, tuple[Part, ...]]:
    """Return the inputs of each individual as one row, shape (n, numbers), and where each lies.

    Raises:
        UsageError: an input is no tensor with a row for each individual, or its numbers are not
            exact in single precision.
    """
    given: Any = labelled.images
    named = given.items() if isinstance(given, Mapping) else ((None, each) for each in given)
    parts: list[Part] = []
    rows: list[Tensor] = []
    for place, (name, tensor) in enumerate(named, 1):
        called = repr(name) if name else f"number {place}"
        if not isinstance(tensor, Tensor) or tensor.ndim < 1 or len(tensor) != len(labelled):
            raise UsageError(
                f"input {called} of {role} must be a tensor with a row for each of "
                f"{len(labelled)} individuals"
            )
        if not tensor.is_floating_point() and tensor.numel() and int(tensor.abs().max()) > WHOLE:
            raise UsageError(
                f"input {called} of {role} holds integers above {WHOLE}, which single precision "
                f"does not hold; number them anew"
            )
        start, shape = parts[-1].end if parts else 0, tuple(tensor.shape[1:])
        parts.append(Part(name, start, start + prod(shape), shape, tensor.dtype))
        rows.append(tensor.reshape(len(tensor), -1).float())
    if not rows:
        raise UsageError(f"{role} has no inputs; give one tensor, a tuple or a dict of them")
    return torch.cat(rows, dim=1), tuple(parts)


def _unpacking(model: nn.Module, parts: Sequence[Part]) -> nn.Module:
    """Return the model with a forward pass of packed rows; parameters keep their names."""
    kind = type(model)

    def forward(self: nn.Module, rows: Tensor) -> Any:
        inputs = [
            (part.name, rows[:, part.start : part.end].reshape(-1, *part.shape).to(part.dtype))
            for part in parts
        ]
        positional = [value for name, value in inputs if name is None]
        return kind.forward(self, *positional, **{n: v for n, v in inputs if n is not None})

    packing = copy.copy(model)
    derived: Any = type(kind.__name__, (kind,), {"forward": forward, "__module__": kind.__module__})
    packing.__class__ = derived
    return packing


def _listed(parts: Sequence[Part]) -> str:
    return ", ".join(f"{part.name or ''}{part.shape} of {part.dtype}" for part in parts)
