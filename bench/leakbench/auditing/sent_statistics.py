"""The statistics of a client's batch, from the running statistics that it sends."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leakbench.auditing.client_batches import Batch, Clients
from leakbench.auditing.tensor_names import named_tensors
from leakbench.auditing.updates import CapturedUpdate
from leakbench.base.errors import UsageError
from leakbench.federation.batch_norm import batch_norm_layers
from leakbench.federation.shared_model import SharedModel, watched

Statistics = Mapping[str, tuple[Tensor, Tensor]]
"""BatchNorm layer → mean and biased variance of its input over the batch."""


def sent_statistics(
    captured: CapturedUpdate, batch: Batch, clients: Clients, example: Tensor
) -> Statistics | None:
    """Return the statistics of a batch of one local step in training mode; None if none are sent.

    A layer's new running mean is (1 − m) · old + m · mean, m being its momentum, and its variance
    likewise, with the unbiased variance of the batch. Layers without a constant momentum, or whose
    statistics are not in the update, are left out.

    Args:
        batch: of the update.
        example: an input of the model, shape (1, …).
    """
    kind, original = captured.update_format.kind, clients.original
    one_step = captured.update_format.local_steps == 1
    whole = clients.threat.mode == "train" and one_step and isinstance(original, nn.Module)
    if kind == "gradient" or not whole:
        return None
    assert isinstance(original, nn.Module)
    try:
        tensors = named_tensors(
            captured.tensors, captured.name, original, list(clients.model.names.values())
        )
    except UsageError:
        return None
    layers = batch_norm_layers(clients.model)
    counts = _inputs_of_channels(clients.model, layers, example)
    found = {}
    for name, layer in layers.items():
        theirs = clients.model.names.get(f"{name}.weight", "").removesuffix(".weight")
        count = counts.get(name, 0) * batch.size
        moments = _moments(tensors, theirs, layer, kind == "difference")
        if theirs and moments is not None and count > 1:
            mean, unbiased = moments
            found[name] = mean, unbiased * (count - 1) / count
    return found or None


def _moments(
    tensors: Mapping[str, object], theirs: str, layer: _BatchNorm, difference: bool
) -> tuple[Tensor, Tensor] | None:
    """Return mean and unbiased variance that moved a layer's running statistics, if they tell.

    Args:
        theirs: the layer's name in the update.
        difference: whether the update holds differences.
    """
    moments = []
    for which, old in (("running_mean", layer.running_mean), ("running_var", layer.running_var)):
        sent = tensors.get(f"{theirs}.{which}")
        if layer.momentum is None or old is None or not isinstance(sent, Tensor):
            return None
        if sent.shape != old.shape or not sent.is_floating_point():
            return None
        before = old.detach().double().cpu()
        moved = sent.detach().double().cpu() - (0 if difference else before)
        moments.append(before + moved / layer.momentum)
    mean, variance = moments
    finite = bool(mean.isfinite().all()) and bool(variance.isfinite().all())
    return (mean, variance) if finite and bool((variance >= 0).all()) else None


def _inputs_of_channels(
    model: SharedModel, layers: Mapping[str, _BatchNorm], example: Tensor
) -> dict[str, int]:
    """Return how many numbers a layer takes in each channel for one input, by layer."""
    counts: dict[str, int] = {}

    def keep(name: str, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        counts[name] = inputs[0].numel() // inputs[0].shape[1]

    with watched(dict(layers), keep), torch.no_grad():
        model(example)
    return counts
