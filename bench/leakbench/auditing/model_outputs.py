"""The logits among what a user's model returns: a tensor, or a dict, tuple or dataclass of them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from operator import attrgetter, itemgetter
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram

from leakbench.auditing.copied_model import working_copy
from leakbench.auditing.labelled_images import kind_of
from leakbench.base.errors import UsageError
from leakbench.base.markdown import one_line

LOGITS = "logits"
"""The name by which logits are found."""


@dataclass(frozen=True)
class Part:
    """A tensor in what a model returns.

    Attributes:
        name: its keys, fields or places, with dots between them.
        steps: from the whole output to the tensor, one after the other.
        value: the tensor.
    """

    name: str
    steps: tuple[Callable[[Any], Any], ...]
    value: Tensor

    def of(self, output: Any) -> Any:
        """Return the same part of another output."""
        for step in self.steps:
            output = step(output)
        return output


def output_of(model: nn.Module | ExportedProgram, inputs: Tensor) -> Any:
    """Return what a copy of the model in evaluation mode returns for some inputs.

    Raises:
        UsageError: it does not take them.
    """
    whole = working_copy(model) if isinstance(model, nn.Module) else model.module()
    try:
        with torch.no_grad():
            return whole(inputs)
    except Exception as error:
        message = one_line(str(error))[:200]
        kind = kind_of(inputs)
        how = "image_size and channels" if kind == "images" else "their number and type"
        raise UsageError(
            f"the model does not take {kind} of shape {tuple(inputs.shape)}: {message}; check "
            f"{how}, and let a saved program take any number of individuals (dynamic_shapes)"
        ) from error


def returning_logits(
    model: nn.Module | ExportedProgram, inputs: Tensor, name: str | None
) -> nn.Module | ExportedProgram:
    """Return a model that returns the logits alone; it shares everything else with the given one.

    Args:
        inputs: an example batch as the model takes it.
        name: of the logits in a dict, dataclass or named tuple, or their place in a tuple, dots
            between nested ones; None for `logits`, or the only tensor of shape (n, K).

    Raises:
        UsageError: the model does not take the inputs; or it returns no such tensor, or several.
    """
    output = output_of(model, inputs)
    if isinstance(output, Tensor):
        if name is not None:
            raise UsageError(f"the model returns a single tensor; leave logits={name!r} out")
        if tuple(output.shape) == (len(inputs),) and isinstance(model, nn.Module):
            return _selecting(model, Part("", (), output))
        return model
    found = list(_parts(output))
    if not found:
        return model  # What it returns is refused for its kind, where logits are checked.
    part = _logits_among(found, len(inputs), name)
    if not isinstance(model, nn.Module) or isinstance(model, fx.GraphModule):
        raise UsageError(
            f"a saved program or graph must return its logits alone, and this one returns "
            f"{_listed(found)}; export a module that returns {part.name!r} only"
        )
    return _selecting(model, part)


def _selecting(model: nn.Module, part: Part) -> nn.Module:
    """Return the model with a forward pass that returns a part; parameters keep their names.

    A single logit of each individual, shape (n,), becomes a column.
    """
    kind, flat = type(model), part.value.ndim == 1

    def forward(self: nn.Module, inputs: Tensor) -> Any:
        found = part.of(kind.forward(self, inputs))
        return found.unsqueeze(1) if flat else found

    chosen = copy.copy(model)
    namespace = {"forward": forward, "__module__": kind.__module__}
    derived: Any = type(kind.__name__, (kind,), namespace)
    chosen.__class__ = derived
    return chosen


def _parts(output: Any, name: str = "", steps: tuple[Any, ...] = ()) -> Iterator[Part]:
    """Yield the tensors of an output."""
    if isinstance(output, Tensor):
        yield Part(name, steps, output)
        return
    inside: list[tuple[Any, Any]] = []
    if isinstance(output, Mapping):
        inside = [(key, itemgetter(key)) for key in output]
    elif is_dataclass(output) and not isinstance(output, type):
        inside = [(field.name, attrgetter(field.name)) for field in fields(output)]
    elif isinstance(output, tuple | list):
        names = getattr(output, "_fields", range(len(output)))
        inside = [(key, itemgetter(place)) for place, key in enumerate(names)]
    for key, step in inside:
        yield from _parts(step(output), f"{name}.{key}" if name else str(key), (*steps, step))


def _logits_among(found: list[Part], count: int, name: str | None) -> Part:
    """Return the logits of `count` individuals.

    Raises:
        UsageError: they cannot be told.
    """
    wanted = LOGITS if name is None else name
    named = next((part for part in found if part.name == wanted), None)
    if named is not None:
        return named
    if name is not None:
        raise UsageError(
            f"the model returns no tensor {name!r}, but {_listed(found)}; give one of these as "
            f"logits"
        )
    floating = [p for p in found if p.value.is_floating_point() and len(p.value.shape) > 0]
    rows = [part for part in floating if len(part.value) == count]
    possible = [p for p in rows if p.value.ndim == 2] or [p for p in rows if p.value.ndim == 1]
    if len(possible) != 1:
        which = "several tensors that may be" if possible else "no tensor that can be"
        raise UsageError(
            f"the model returns {which} its logits, of shape (individuals, classes): "
            f"{_listed(possible or found)}; name one as logits, such as logits="
            f"{(possible or found)[0].name!r}"
        )
    return possible[0]


def _listed(parts: list[Part]) -> str:
    shown = ", ".join(f"{part.name!r} of shape {tuple(part.value.shape)}" for part in parts[:5])
    return f"{shown} and {len(parts) - 5} more" if len(parts) > 5 else shown
