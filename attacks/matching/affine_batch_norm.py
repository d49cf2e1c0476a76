"""BatchNorm in evaluation mode as what it is there: a factor and a summand for each channel.

PyTorch's own has a second derivative made of many passes over the activations; this one of two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from leakbench.attacks.matching.layer_rules import Weights, is_trained, summed


@contextmanager
def affine(layers: Iterable[_BatchNorm]) -> Iterator[None]:
    """Compute layers in evaluation mode as x · scale + shift."""
    replaced = list(layers)
    for layer in replaced:
        layer.forward = partial(_affine, layer)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in replaced:
            del layer.forward


def of_affine(
    layer: Any, weights: Weights, inputs: Tensor, deltas: Tensor, runs: int
) -> dict[str, Any]:
    """Return gradients by γ and β from Σ δx and Σ δ; a rule as those of `layer_rules`."""
    of_shift = summed(deltas, runs)
    found = {}
    if is_trained(layer, "weight"):
        deviation = (weights["running_var"] + layer.eps).rsqrt()
        of_scale = summed(deltas * inputs, runs)
        found["weight"] = (of_scale - weights["running_mean"] * of_shift) * deviation
    if is_trained(layer, "bias"):
        found["bias"] = of_shift
    return found


def stays_native(model: nn.Module) -> bool:
    """Whether a model keeps PyTorch's BatchNorm.

    Models whose weights, trained or frozen, are of nothing but convolutions in one group, linear
    layers and BatchNorm do: what was published of them stays the same to the last digit.
    """
    known = (nn.Conv2d, nn.Linear, nn.BatchNorm2d)
    weighted = [m for m in model.modules() if [*m.parameters(False), *m.buffers(False)]]
    return all(
        type(layer) in known and not (isinstance(layer, nn.Conv2d) and layer.groups > 1)
        for layer in weighted
    )


def _affine(layer: _BatchNorm, inputs: Tensor) -> Tensor:
    mean, variance = layer.running_mean, layer.running_var
    assert mean is not None
    assert variance is not None
    scale = (variance + layer.eps).rsqrt()
    if layer.affine:
        scale = scale * layer.weight
    shift = -mean * scale
    if layer.affine:
        shift = shift + layer.bias
    shape = (-1, *[1] * (inputs.ndim - 2))
    return torch.addcmul(shift.view(shape), inputs, scale.view(shape))
