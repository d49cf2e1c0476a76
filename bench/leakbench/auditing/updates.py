"""Captured updates: read, checked, and converted to the gradients that the harness works with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from leakbench.auditing.model_loading import Model, load_tensors
from leakbench.auditing.model_splitting import SplitModel
from leakbench.auditing.tensor_names import named_tensors
from leakbench.base.errors import UsageError
from leakbench.base.limits import MOST
from leakbench.base.plugins import PluginSpec, sentence
from leakbench.federation.client import Update

UpdateKind = Literal["gradient", "difference", "weights"]
"""What an update's tensors are: the gradient of the mean loss; the difference of the client's
weights, after training less before; or its weights after training."""


MOST_STEPS = 10**5
"""Local steps that an audit takes again; from more nobody could follow an update back."""


class UpdateFormat(BaseModel):
    """What an update is, and how the client computed it.

    Attributes:
        kind: what the tensors are, see `UpdateKind`.
        batch_size: individuals in the client's batch; None if only the truth says it.
        learning_rate: η of the client's SGD; required unless the tensors are gradients of one
            step.
        local_steps: steps of SGD that the client took.
        local_batch: individuals in a step; None for the whole batch.
        weight_decay: λ of a single step of SGD, which adds λ times the weights to the gradient.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: UpdateKind = "gradient"
    batch_size: int | None = Field(default=None, gt=0, le=MOST)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    local_steps: int = Field(default=1, gt=0, le=MOST_STEPS)
    local_batch: int | None = Field(default=None, gt=0, le=MOST)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)


Tensors = Mapping[str, Any] | Sequence[Any]
"""Tensors or NumPy arrays, by the names of the model's parameters or in their order."""


@dataclass(frozen=True)
class CapturedUpdate:
    """One update as it was saved.

    Attributes:
        name: of its file, or its key in a mapping.
        tensors: the user's parameter name → tensor or array; or those in the model's order.
        update_format: what the tensors are.
    """

    name: str
    tensors: Tensors
    update_format: UpdateFormat


@dataclass(frozen=True)
class ReadUpdates:
    """Updates that could be read, and those that could not.

    Attributes:
        captured: the former.
        unread: name → why it cannot be read.
    """

    captured: Sequence[CapturedUpdate] = ()
    unread: Mapping[str, str] = field(default_factory=dict)


def read_updates(
    given: Mapping[Any, Tensors] | Path | Sequence[Path],
    update_format: UpdateFormat,
    batch_sizes: Sequence[int] = (),
) -> ReadUpdates:
    """Return the updates of a folder or of files, or those given as tensors.

    A file's header may override fields of `update_format` for this update.

    Args:
        batch_sizes: of the updates in their order; empty for that of `update_format`.

    Raises:
        UsageError: there is none, or none can be read; two have the same name; or there is another
            number of batch sizes.
    """
    captured: list[CapturedUpdate] = []
    unread: dict[str, str] = {}
    if isinstance(given, Mapping):
        names = [str(name) for name in given]
        formats = _formats(names, update_format, batch_sizes)
        captured = [
            CapturedUpdate(name, tensors, formats[name])
            for name, tensors in zip(names, given.values(), strict=True)
        ]
    else:
        files = _files(given) if isinstance(given, Path) else list(given)
        names = [file.stem for file in files]
        formats = _formats(names, update_format, batch_sizes)
        for file in files:
            try:
                tensors, header = load_tensors(file, "update")
                own = _overridden(formats[file.stem], header, file)
            except UsageError as error:
                unread[file.stem] = str(error)
            else:
                captured.append(CapturedUpdate(file.stem, tensors, own))
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise UsageError(f"two updates are named {repeated[0]!r}; rename one of them")
    if unread and not captured:
        raise UsageError(next(iter(unread.values())))
    return ReadUpdates(captured, unread)


def _formats(
    names: Sequence[str], update_format: UpdateFormat, batch_sizes: Sequence[int]
) -> dict[str, UpdateFormat]:
    """Return the format of each update, by name, with its batch size."""
    if batch_sizes and len(batch_sizes) != len(names):
        raise UsageError(
            f"batch_size has {len(batch_sizes)} numbers, but there are {len(names)} updates; give "
            f"one for each, in their order, or one for all"
        )
    sizes: Sequence[int | None] = batch_sizes or [update_format.batch_size] * len(names)
    return {
        name: update_format.model_copy(update={"batch_size": size})
        for name, size in zip(names, sizes, strict=True)
    }


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UsageError(
            f"updates {folder} not found; give a folder of safetensors files, or one file"
        )
    files = sorted(folder.glob("*.safetensors"), key=_natural_order)
    if not files:
        raise UsageError(f"no update in {folder}: it holds no *.safetensors file")
    return files


def _natural_order(path: Path) -> list[tuple[int, str]]:
    """Return a sort key that puts `client-2` before `client-10`."""
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _overridden(update_format: UpdateFormat, header: Mapping[str, str], file: Path) -> UpdateFormat:
    known = {name: value for name, value in header.items() if name in UpdateFormat.model_fields}
    try:
        return UpdateFormat.model_validate({**update_format.model_dump(), **known})
    except ValidationError as error:
        raise UsageError(f"the header of update {file}: {sentence(error)}") from None


def as_gradient(captured: CapturedUpdate, model: SplitModel, original: Model) -> Update:
    """Return an update in the harness's form: the gradient, or the sum of the steps' gradients.

    Args:
        model: the user's model, split.
        original: the user's model as it was given, whose parameter names the update has.

    Raises:
        UsageError: tensors are missing, unknown, of another shape, not finite, or no dense
            floating-point tensors; or weights or their difference come without the learning rate.
    """
    update_format, name = captured.update_format, captured.name
    if update_format.kind != "gradient" and update_format.learning_rate is None:
        raise UsageError(
            f"update {name!r} is of kind {update_format.kind}, which scales with the learning "
            f"rate; give learning_rate"
        )
    if update_format.weight_decay and update_format.local_steps > 1:
        raise UsageError(
            f"update {name!r} is of {update_format.local_steps} local steps with weight decay, "
            f"which is taken off a single step only; capture one step, or set weight_decay to 0"
        )
    module = original if isinstance(original, nn.Module) else original.module()
    tensors = named_tensors(captured.tensors, name, module, list(model.names.values()))
    _check_names(name, tensors, model, module)
    update: Update = {}
    for ours, theirs in model.names.items():
        value, parameter = tensors[theirs], model.get_parameter(ours)
        _check_kind(value, theirs, name)
        if value.shape != parameter.shape:
            raise UsageError(
                f"update {name!r} does not fit the model: its tensor {theirs!r} has shape "
                f"{tuple(value.shape)}, the model's {tuple(parameter.shape)}"
            )
        if not bool(value.isfinite().all()):
            raise UsageError(
                f"tensor {theirs!r} of update {name!r} holds NaN or infinity; capture it again, or "
                f"leave the update out"
            )
        value = value.detach().to(parameter.device).to(parameter.dtype)
        update[ours] = _summed_gradients(value, parameter, update_format)
    return update


FLOATING = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""What is cast to the model's type: others are codes, such as quantised values, or lose a part."""


def _check_kind(value: object, tensor: str, update: str) -> None:
    """Refuse what is no dense floating-point tensor, instead of casting it without a word."""
    if not isinstance(value, Tensor):
        raise UsageError(
            f"{tensor!r} of update {update!r} is of type {type(value).__name__}; pass tensors or "
            f"NumPy arrays"
        )
    if value.dtype not in FLOATING or value.layout != torch.strided:
        kind = str(value.dtype).removeprefix("torch.")
        kind = kind if value.layout == torch.strided else f"sparse {kind}"
        raise UsageError(
            f"tensor {tensor!r} of update {update!r} is of type {kind}; make it a dense float32 "
            f"tensor of the values that the server would add"
        )


def _summed_gradients(value: Tensor, before: Tensor, update_format: UpdateFormat) -> Tensor:
    if update_format.kind != "gradient":
        moved = value if update_format.kind == "difference" else value - before
        assert update_format.learning_rate is not None
        value = -moved / update_format.learning_rate
    return value - update_format.weight_decay * before if update_format.weight_decay else value


def _check_names(
    name: str, tensors: Mapping[str, Any], model: SplitModel, module: nn.Module
) -> None:
    missing = [each for each in model.names.values() if each not in tensors]
    if missing:
        raise UsageError(
            f"update {name!r} lacks {_listed(missing)}, which the model trains; freeze what "
            f"clients do not train (requires_grad_(False)), or capture the whole update"
        )
    every = module.named_parameters(remove_duplicate=False)
    other = {n for n, _ in [*every, *module.named_buffers(remove_duplicate=False)]}
    extra = [each for each in tensors if each not in {*model.names.values(), *other}]
    if extra:
        near = get_close_matches(extra[0], model.names.values(), n=1)
        raise UsageError(
            f"update {name!r} holds {_listed(extra)}, which the model does not have"
            f"{f' (it has {near[0]!r})' if near else ''}; it is of another model"
        )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} and {len(names) - 3} more tensors" if len(names) > 3 else f"tensor {shown}"


def local_steps(update_format: UpdateFormat, size: int, name: str) -> PluginSpec | None:
    """Return a client's local steps as the defense `local_steps`; None for a single step.

    Args:
        size: individuals in the batch.
        name: of the update.

    Raises:
        UsageError: the steps are no whole number of passes over the batch, or there are several
            and the learning rate is not known.
    """
    batch, steps = update_format.local_batch or size, update_format.local_steps
    per_pass = -(-size // batch)
    if steps % per_pass:
        raise UsageError(
            f"update {name!r}: {steps} steps of {batch} individuals are no whole number of passes "
            f"over {size}; one pass takes {per_pass}"
        )
    if steps == 1:
        return None
    if update_format.learning_rate is None:
        raise UsageError(
            f"update {name!r} is of {steps} local steps, which depend on the learning rate; give "
            f"learning_rate"
        )
    smaller = {} if batch >= size else {"batch": batch}
    return PluginSpec("local_steps", {"epochs": steps // per_pass, **smaller})


def with_batch_size(captured: CapturedUpdate, of_truth: int | None) -> CapturedUpdate:
    """Return an update whose batch size is known.

    Args:
        of_truth: individuals that the truth assigns to the update; None where it is not known.

    Raises:
        UsageError: the batch size is not known, or the truth contradicts it.
    """
    given = captured.update_format.batch_size
    size = of_truth or given
    if size is None:
        raise UsageError(
            f"the batch size of update {captured.name!r} is not known; give batch_size, or write "
            f"it into the file's header"
        )
    if of_truth and given and of_truth != given:
        raise UsageError(
            f"update {captured.name!r} has batch_size {given}, but the truth assigns {of_truth} "
            f"individuals to it; correct batch_size or the truth's column `update`"
        )
    sized = captured.update_format.model_copy(update={"batch_size": size})
    return replace(captured, update_format=sized)
