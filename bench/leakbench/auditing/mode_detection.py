"""How clients ran BatchNorm, read from their updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from leakbench.auditing.client_batches import Clients, KnownBatch, captured_batch, rows_by_update
from leakbench.auditing.labelled_images import LabelledImages
from leakbench.auditing.part_errors import error_text
from leakbench.auditing.tensor_names import named_tensors
from leakbench.auditing.update_check import simulations
from leakbench.auditing.updates import CapturedUpdate, UpdateFormat, as_gradient
from leakbench.base.choices import Mode
from leakbench.base.errors import UsageError
from leakbench.evaluation.defense_cost import distortion
from leakbench.federation.batch_norm import batch_norm_layers
from leakbench.federation.client import Update
from leakbench.federation.shared_model import SharedModel, watched

LOOKED_AT = 4
"""Updates that the mode is read from, at most."""

MODES: tuple[Mode, Mode] = ("eval", "train")


@dataclass(frozen=True)
class DetectedMode:
    """How clients ran BatchNorm.

    Attributes:
        mode: None where it cannot be told.
        how: what shows it, as part of a sentence.
        failed: why the truth does not show it, if an update could not be simulated; likewise.
    """

    mode: Mode | None
    how: str = ""
    failed: str = ""


def in_clients_mode(
    clients: Clients,
    given: Mode | None,
    captured: Sequence[CapturedUpdate],
    truth: LabelledImages | None,
    update_format: UpdateFormat,
    images: Tensor,
) -> tuple[Clients, str]:
    """Return clients in their mode, and what is known of it as a sentence.

    Args:
        given: by the user; None for what the updates show.
        images: an example batch.
    """
    if not batch_norm_layers(clients.model):
        return clients, ""
    detected = detect_mode(clients, captured, truth, update_format, images)
    failed = f" It cannot be read from the truth: {detected.failed}." if detected.failed else ""
    mode = given or detected.mode or "eval"
    clients = replace(clients, threat=clients.threat.model_copy(update={"mode": mode}))
    if detected.mode is None and mode == "eval":
        return clients, (
            "Clients are assumed to run BatchNorm with its running statistics (mode eval), and the "
            f"updates do not show it; if theirs normalise by the batch, set mode train.{failed}"
        )
    if detected.mode is None:
        return clients, failed.strip()
    if mode != detected.mode:
        return clients, (
            f"The audit was run in mode {mode}, but {detected.how}: clients seem to be in mode "
            f"{detected.mode}, in which these findings do not hold.{failed}"
        )
    return clients, f"Clients run BatchNorm in mode {mode}: {detected.how}.{failed}"


def detect_mode(
    clients: Clients,
    captured: Sequence[CapturedUpdate],
    truth: LabelledImages | None,
    update_format: UpdateFormat,
    images: Tensor,
) -> DetectedMode:
    """Return how clients ran BatchNorm.

    Running statistics in an update say it, else the truth, else whether gradients of weights before
    BatchNorm are orthogonal to the weights, as they are where it divides by the batch's deviation.

    Args:
        images: an example batch.
    """
    if not batch_norm_layers(clients.model):
        return DetectedMode(None)
    found = [_by_running_statistics(each, clients) for each in captured[:LOOKED_AT]]
    if mode := _agreed(found):
        moved = "move" if mode == "train" else "do not move"
        return DetectedMode(mode, f"running statistics in the updates {moved}")
    failed = ""
    if truth is not None and truth.labels is not None and captured:
        found, failed = _by_truth(clients, captured, truth, update_format)
        if mode := _agreed(found):
            return DetectedMode(mode, "the truth gives the updates in this mode", failed)
    if clients.threat.defense is None:
        found = [_by_orthogonality(each, clients, images) for each in captured[:LOOKED_AT]]
        if mode := _agreed(found):
            right = "" if mode == "train" else "not "
            return DetectedMode(
                mode,
                f"gradients of weights before BatchNorm are {right}orthogonal to the weights",
                failed,
            )
    return DetectedMode(None, failed=failed)


def _agreed(found: Sequence[Mode | None]) -> Mode | None:
    """Return the mode that all updates show that show any."""
    modes = {mode for mode in found if mode is not None}
    return modes.pop() if len(modes) == 1 else None


def _by_running_statistics(captured: CapturedUpdate, clients: Clients) -> Mode | None:
    kind, original = captured.update_format.kind, clients.original
    if kind == "gradient" or not isinstance(original, nn.Module):
        return None
    try:
        tensors = named_tensors(
            captured.tensors, captured.name, original, list(clients.model.names.values())
        )
    except UsageError:
        return None
    moved = [
        bool((tensors[name].cpu() != (0 if kind == "difference" else value.cpu())).any())
        for name, value in original.named_buffers()
        if name.endswith(("running_mean", "running_var")) and isinstance(tensors.get(name), Tensor)
    ]
    if not moved:
        return None
    return "train" if any(moved) else "eval"


def _by_truth(
    clients: Clients,
    captured: Sequence[CapturedUpdate],
    truth: LabelledImages,
    update_format: UpdateFormat,
) -> tuple[list[Mode | None], str]:
    """Return the mode of each update, and why one could not be simulated, if so."""
    found: list[Mode | None] = []
    failed = ""
    try:
        rows = rows_by_update([each.name for each in captured], truth, update_format)
    except UsageError:
        return [], ""  # It ends the audit with its own sentence.
    for each in [each for each in captured if rows.get(each.name)][:LOOKED_AT]:
        distances = []
        for mode in MODES:
            threat = clients.threat.model_copy(update={"mode": mode})
            there = replace(clients, threat=threat)
            try:
                batch = captured_batch(each, there, truth, rows[each.name])
                assert isinstance(batch, KnownBatch) and batch.update is not None
                (simulated,) = simulations(batch, there, 1)
            except UsageError:
                break  # The update is left out, with this reason.
            except Exception as error:  # The user's code may raise anything.
                failed = f"in mode {mode} update {each.name!r} fails with {error_text(error)}"
                break
            distances.append(distortion(batch.update, simulated))
        if len(distances) == len(MODES):
            near, far = sorted(range(len(MODES)), key=lambda row: distances[row])
            clear = distances[near] < distances[far] / 2
            found.append(MODES[near] if clear else None)
    return found, failed


def _by_orthogonality(captured: CapturedUpdate, clients: Clients, images: Tensor) -> Mode | None:
    try:
        update = as_gradient(captured, clients.model, clients.original)
    except UsageError:
        return None
    cosines = _cosines(clients.model, update, images)
    if not cosines or captured.update_format.local_steps > 1:
        return None
    middle = median(cosines)
    if middle < ORTHOGONAL:
        return "train"
    return "eval" if middle > NOT_ORTHOGONAL else None


ORTHOGONAL, NOT_ORTHOGONAL = 0.05, 0.2
"""Medians of |cosine| · √n, over the output channels; of unrelated vectors it is about 0.7."""


def _cosines(model: SharedModel, update: Update, images: Tensor) -> list[float]:
    """Return |cosine| · √n of weight and gradient, for each channel that BatchNorm reads."""
    found = []
    for name in _layers_before_batch_norm(model, images):
        weight = model.get_submodule(name).weight
        if f"{name}.weight" not in update or not isinstance(weight, Tensor):
            continue
        w, g = weight.detach().flatten(1).double(), update[f"{name}.weight"].flatten(1).double()
        lengths = w.norm(dim=1) * g.norm(dim=1)
        cosines = (w * g).sum(1).abs()[lengths > 0] / lengths[lengths > 0]
        found += (cosines * w.shape[1] ** 0.5).tolist()
    return found


def _layers_before_batch_norm(model: SharedModel, images: Tensor) -> list[str]:
    """Return the convolutions and linear layers whose output BatchNorm reads."""
    outputs: list[tuple[Tensor, str]] = []
    found: list[str] = []
    norms: Mapping[str, nn.Module] = batch_norm_layers(model)
    kinds = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    linear = {name: m for name, m in model.named_modules() if isinstance(m, kinds)}

    def watch(name: str, inputs: tuple[Any, ...], output: Tensor) -> None:
        if name in linear:
            outputs.append((output, name))
        else:
            found.extend(layer for tensor, layer in outputs if tensor is inputs[0])

    with watched({**linear, **norms}, watch), torch.no_grad():
        model(images.to(next(model.parameters()).device))
    return found
