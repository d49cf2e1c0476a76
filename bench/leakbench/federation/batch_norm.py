"""BatchNorm layers of a shared model: training mode, batch statistics, running statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import replace_all_batch_norm_modules_
from torch.nn.modules.batchnorm import _BatchNorm

from leakbench.base.choices import Mode
from leakbench.federation.shared_model import SharedModel, watched


def in_mode(model: SharedModel, mode: Mode) -> SharedModel:
    """Return the model as clients run it: in mode `train`, a copy that normalises by the batch.

    The copy keeps no running statistics, so that computing an update with it changes nothing.
    """
    if mode == "eval" or not batch_norm_layers(model):
        return model
    normalising_by_batch = copy.deepcopy(model)
    replace_all_batch_norm_modules_(normalising_by_batch)
    return normalising_by_batch


def batch_norm_layers(model: SharedModel) -> dict[str, _BatchNorm]:
    """Return the model's BatchNorm layers by name."""
    return {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}


def normalises_by_batch(model: SharedModel) -> bool:
    """Return whether BatchNorm layers mix the individuals of a batch, as in training mode."""
    layers = batch_norm_layers(model).values()
    return any(layer.training or layer.running_mean is None for layer in layers)


def batch_statistics(model: SharedModel, images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Return mean and variance of every BatchNorm layer's input over a batch.

    Args:
        model: as the client runs it, see `in_mode`.
        images: shape (B, 3, size, size).

    Returns:
        Layer → mean and (biased) variance over batch and positions, shape (channels,) each.
    """
    with recorded_statistics(model) as statistics, torch.no_grad():
        model(images)
    return statistics


@contextmanager
def recorded_statistics(
    model: SharedModel, record: bool = True
) -> Iterator[dict[str, tuple[Tensor, Tensor]]]:
    """Record what `batch_statistics` returns during a forward pass, differentiably."""
    statistics: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(name: str, inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        statistics[name] = channel_moments(inputs[0])

    with watched(batch_norm_layers(model) if record else {}, keep):
        yield statistics


def channel_moments(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and biased variance over all axes but the second, shape (channels,) each."""
    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    return inputs.mean(axes), inputs.var(axes, correction=0)


def running_statistics(model: SharedModel) -> dict[str, tuple[Tensor, Tensor]]:
    """Return running mean and variance of every BatchNorm layer: part of the model."""
    return {
        name: (layer.running_mean, layer.running_var)
        for name, layer in batch_norm_layers(model).items()
        if layer.running_mean is not None and layer.running_var is not None
    }
