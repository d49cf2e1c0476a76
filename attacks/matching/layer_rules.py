"""Rules: each run's gradients of a layer's parameters from its inputs and output gradients δ.

R·B individuals stand run by run along the first axis. A layer without a rule of its own is mapped
over runs, on its own. Frozen parameters, which are buffers of their layer, get no gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn import functional
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from leakbench.attacks.matching.convolution_geometry import Geometry
from leakbench.attacks.matching.factors import Factors
from leakbench.attacks.matching.run_convolutions import weight_gradients
from leakbench.attacks.matching.second_derivatives import twice_differentiable

Weights = Mapping[str, Tensor]
"""Parameters and buffers by name."""

Rule = Callable[[Any, Weights, Tensor, Tensor, int], dict[str, Any]]
"""A layer, its weights, inputs (R·B, …) and δ (R·B, …), and R, to the gradient of each of its
parameters, shape (R, …)."""


def rule_of(layer: nn.Module) -> Rule:
    """Return the rule of a layer that has parameters and takes and returns one tensor."""
    if type(layer) is nn.Conv2d and not Geometry.is_even(layer):
        return _mapped
    return RULES.get(type(layer), _mapped)


def is_trained(layer: nn.Module, parameter: str) -> bool:
    """Whether a layer has this parameter, and not as a buffer."""
    return layer._parameters.get(parameter) is not None


def _of_convolution(
    layer: nn.Conv2d, _weights: Weights, inputs: Tensor, deltas: Tensor, runs: int
) -> dict[str, Any]:
    found = {}
    if is_trained(layer, "weight"):
        found["weight"] = weight_gradients(inputs, deltas, runs, Geometry.of(layer))
    if is_trained(layer, "bias"):
        found["bias"] = summed(deltas, runs)
    return found


def _of_linear(
    layer: nn.Linear, _weights: Weights, inputs: Tensor, deltas: Tensor, runs: int
) -> dict[str, Any]:
    return _of_product(layer, "weight", "bias", inputs, deltas, runs)


def _of_attention(
    layer: nn.MultiheadAttention, _weights: Weights, inputs: Tensor, deltas: Tensor, runs: int
) -> dict[str, Any]:
    """Of the projection to queries, keys and values; see `attention`."""
    return _of_product(layer, "in_proj_weight", "in_proj_bias", inputs, deltas, runs)


def _of_product(
    layer: nn.Module, weight: str, bias: str, inputs: Tensor, deltas: Tensor, runs: int
) -> dict[str, Any]:
    """Of a product with a matrix, whose parameters have these names."""
    # Rows of one individual, if there are several, are rows of its run all the same.
    rows = deltas.reshape(runs, -1, deltas.shape[-1])
    found: dict[str, Any] = {}
    if is_trained(layer, weight):
        found[weight] = Factors(rows, inputs.reshape(runs, -1, inputs.shape[-1]))
    if is_trained(layer, bias):
        found[bias] = rows.sum(1)
    return found


def _of_batch_norm(
    layer: nn.BatchNorm1d | nn.BatchNorm2d,
    weights: Weights,
    inputs: Tensor,
    deltas: Tensor,
    runs: int,
) -> dict[str, Any]:
    shape = (-1, *[1] * (inputs.ndim - 2))
    mean = weights["running_mean"].view(shape)
    variance = weights["running_var"].view(shape)
    normalised = (inputs - mean) * (variance + layer.eps).rsqrt()
    found = {}
    if is_trained(layer, "weight"):
        found["weight"] = summed(deltas * normalised, runs)
    if is_trained(layer, "bias"):
        found["bias"] = summed(deltas, runs)
    return found


def _of_layer_norm(
    layer: nn.LayerNorm, _weights: Weights, inputs: Tensor, deltas: Tensor, runs: int
) -> dict[str, Any]:
    shape = layer.normalized_shape
    deltas = deltas.reshape(runs, -1, *shape)
    found = {}
    if is_trained(layer, "weight"):
        normalised = functional.layer_norm(inputs, shape, eps=layer.eps)
        found["weight"] = (deltas * normalised.reshape(deltas.shape)).sum(1)
    if is_trained(layer, "bias"):
        found["bias"] = deltas.sum(1)
    return found


def _of_prelu(
    layer: nn.PReLU, _weights: Weights, inputs: Tensor, deltas: Tensor, runs: int
) -> dict[str, Any]:
    slopes = summed(deltas * inputs.clamp_max(0), runs)
    return {"weight": slopes if layer.num_parameters > 1 else slopes.sum(1, keepdim=True)}


def _mapped(
    layer: nn.Module, weights: Weights, inputs: Tensor, deltas: Tensor, runs: int
) -> dict[str, Any]:
    trained = {name: weights[name] for name in weights if is_trained(layer, name)}
    others = {name: weights[name] for name in weights if name not in trained}

    def of_run(x: Tensor, delta: Tensor) -> dict[str, Tensor]:
        def output(trained: Weights) -> Tensor:
            with twice_differentiable(mapped=True):
                found: Tensor = functional_call(layer, {**trained, **others}, (x,))
            return found

        found: dict[str, Tensor] = vjp(output, trained)[1](delta)[0]
        return found

    by_run = [given.reshape(runs, -1, *given.shape[1:]) for given in (inputs, deltas)]
    found: dict[str, Any] = vmap(of_run)(*by_run)
    return found


RULES: Mapping[type[nn.Module], Rule] = {
    nn.Conv2d: _of_convolution,
    nn.Linear: _of_linear,
    NonDynamicallyQuantizableLinear: _of_linear,  # of attention's output
    nn.MultiheadAttention: _of_attention,
    nn.BatchNorm1d: _of_batch_norm,
    nn.BatchNorm2d: _of_batch_norm,
    nn.LayerNorm: _of_layer_norm,
    nn.PReLU: _of_prelu,
}


def summed(images: Tensor, runs: int) -> Tensor:
    """Return the sum over each run's individuals and positions, shape (R, channels).

    Args:
        images: shape (R·B, channels, …).
    """
    by_individual = images.sum(tuple(range(2, images.ndim))) if images.ndim > 2 else images
    return by_individual.view(runs, -1, images.shape[1]).sum(1)
