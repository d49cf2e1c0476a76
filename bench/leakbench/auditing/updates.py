"""What clients sent: gradients, or how far weights moved, checked and named as the harness does."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from leakbench.auditing.model_loading import Model, load_tensors
from leakbench.auditing.model_splitting import OwnModel
from leakbench.base.errors import UsageError
from leakbench.base.plugins import sentence
from leakbench.federation.client import Update

Kind = Literal["gradient", "difference", "weights"]
"""What an update's tensors are: the gradient of the mean loss; the client's weights after training
less those before; or its weights after training."""

WRAPPERS = ("_module.", "module.")
"""What Opacus and DataParallel put before the names of parameters."""


class UpdateFormat(BaseModel):
    """How clients came to what they sent.

    Attributes:
        kind: what the tensors are, see `Kind`.
        batch_size: individuals behind an update; None where the truth says, or nobody.
        learning_rate: η of the clients' SGD; needed unless the tensors are gradients
            of one step.
        local_steps: steps of SGD that the client took.
        local_batch: individuals of a step; None for the whole batch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind = "gradient"
    batch_size: int | None = Field(default=None, gt=0)
    learning_rate: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    local_steps: int = Field(default=1, gt=0)
    local_batch: int | None = Field(default=None, gt=0)


@dataclass(frozen=True)
class Captured:
    """One update as it was saved.

    Attributes:
        name: of its file, or as its giver calls it.
        tensors: the user's parameter name → tensor.
        sending: how it came about.
    """

    name: str
    tensors: Mapping[str, Tensor]
    sending: UpdateFormat


def read_updates(
    given: Mapping[str, Mapping[str, Tensor]] | Path | Sequence[Path], sending: UpdateFormat
) -> list[Captured]:
    """Return the updates of a folder or of files, or those given as tensors by name.

    A file's header may say otherwise than `sending` what is true of this update alone.

    Raises:
        UsageError: there is none, a file cannot be read, or its header says what cannot be.
    """
    if isinstance(given, Mapping):
        return [Captured(name, tensors, sending) for name, tensors in given.items()]
    files = _files(given) if isinstance(given, Path) else list(given)
    captured = []
    for file in files:
        tensors, notes = load_tensors(file, "update")
        captured.append(Captured(file.stem, tensors, _noted(file, sending, notes)))
    names = [each.name for each in captured]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UsageError(f"two updates are called {twice[0]!r}; rename one of the files")
    return captured


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise UsageError(f"updates {folder} not found; name a folder of safetensors files, or one")
    files = sorted(folder.glob("*.safetensors"), key=_naturally)
    if not files:
        raise UsageError(f"no update in {folder}: it holds no *.safetensors file")
    return files


def _naturally(path: Path) -> list[tuple[int, str]]:
    """Return a key by which `client-2` comes before `client-10`."""
    parts = re.split(r"(\d+)", path.stem)
    return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]


def _noted(file: Path, sending: UpdateFormat, notes: Mapping[str, str]) -> UpdateFormat:
    known = {name: value for name, value in notes.items() if name in UpdateFormat.model_fields}
    try:
        return UpdateFormat.model_validate({**sending.model_dump(), **known})
    except ValidationError as error:
        raise UsageError(f"the header of update {file}: {sentence(error)}") from None


def as_gradient(captured: Captured, model: OwnModel, whole: Model) -> Update:
    """Return an update as the harness has it: the gradient, or the sum of the steps' gradients.

    Args:
        model: the shared model, cut.
        whole: as the user gave it, whose names the update has.

    Raises:
        UsageError: tensors are missing, unknown, of another shape, or not finite; or how far
            weights moved is given without the learning rate.
    """
    sending, name = captured.sending, captured.name
    if sending.kind != "gradient" and sending.learning_rate is None:
        raise UsageError(
            f"update {name!r} is a {sending.kind} of weights, whose scale is the learning rate's; "
            f"say learning_rate"
        )
    tensors = _unwrapped(captured.tensors, set(model.names.values()))
    _check_names(name, tensors, model, whole)
    update: Update = {}
    for ours, theirs in model.names.items():
        value, parameter = tensors[theirs], model.get_parameter(ours)
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
        update[ours] = _per_rate(value, parameter, sending)
    return update


def _per_rate(value: Tensor, before: Tensor, sending: UpdateFormat) -> Tensor:
    if sending.kind == "gradient":
        return value
    moved = value if sending.kind == "difference" else value - before
    assert sending.learning_rate is not None
    return -moved / sending.learning_rate


def _unwrapped(tensors: Mapping[str, Tensor], known: set[str]) -> dict[str, Tensor]:
    """Return tensors without what wrappers put before all of their names."""
    for wrapper in WRAPPERS:
        if not known & set(tensors) and all(name.startswith(wrapper) for name in tensors):
            return {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return dict(tensors)


def _check_names(name: str, tensors: Mapping[str, Tensor], model: OwnModel, whole: Model) -> None:
    missing = [each for each in model.names.values() if each not in tensors]
    if missing:
        raise UsageError(
            f"update {name!r} lacks {_listed(missing)}, which the model trains; freeze what "
            f"clients do not train (requires_grad_(False)), or capture the whole update"
        )
    module = whole if isinstance(whole, nn.Module) else whole.module()
    other = {n for n, _ in [*module.named_parameters(), *module.named_buffers()]}
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


def defense_parameters_of(sending: UpdateFormat, size: int, name: str) -> dict[str, Any] | None:
    """Return the parameters of the defense `local_steps` that a client's steps are; None for one.

    Raises:
        UsageError: the steps are no whole number of passes over the batch, or several of an
            unknown learning rate.
    """
    batch = sending.local_batch or size
    each = -(-size // batch)
    if sending.local_steps % each:
        raise UsageError(
            f"update {name!r}: {sending.local_steps} steps of {batch} individuals are no whole "
            f"number of passes over {size}; one pass takes {each}"
        )
    if sending.local_steps == 1:
        return None
    if sending.learning_rate is None:
        raise UsageError(
            f"update {name!r} is of {sending.local_steps} local steps, which depend on the "
            f"learning rate; say learning_rate"
        )
    chosen = {} if batch >= size else {"batch": batch}
    return {"epochs": sending.local_steps // each, **chosen}


def with_size(captured: Captured, of_truth: int | None) -> Captured:
    """Return an update whose batch size is known.

    Raises:
        UsageError: nobody says it, or the truth says otherwise.
    """
    said = captured.sending.batch_size
    size = of_truth or said
    if size is None:
        raise UsageError(
            f"the batch size of update {captured.name!r} is not known; say batch_size, or write "
            f"it into the file's header"
        )
    if of_truth and said and of_truth != said:
        raise UsageError(
            f"update {captured.name!r} is said to be of {said} individuals, but the truth names "
            f"{of_truth} for it; correct batch_size or the truth's column `update`"
        )
    return replace(captured, sending=captured.sending.model_copy(update={"batch_size": size}))
