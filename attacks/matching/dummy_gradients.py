"""The update that dummy data would make, for R runs at once, differentiably.

Two ways give the same gradients. *Layer by layer*: all R·B dummies pass through the model as one
batch, and each run's gradients follow from every layer's inputs and the gradients δ of the loss by
its outputs. It is the faster one, and open to models whose layers treat individuals apart and have
a rule here. *Mapped*: `torch.func.vmap` over runs, for every other model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from leakbench.attacks.matching.factors import Factors
from leakbench.attacks.matching.priors import Statistics
from leakbench.attacks.matching.run_convolutions import Geometry, weight_gradients
from leakbench.attacks.matching.runs import each_tensor
from leakbench.federation.batch_norm import batch_norm_layers, channel_moments, recorded_statistics
from leakbench.federation.shared_model import SharedModel, watched

Weights = Mapping[str, Tensor]
"""Parameters and buffers of a model by name."""


def weights_of(model: SharedModel, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return a model's parameters and buffers, kernels in the layout that convolutions prefer.

    Args:
        dtype: of floating-point numbers, if not the model's own.
    """
    weights = {name: p.detach() for name, p in model.named_parameters()}
    weights |= dict(model.named_buffers())
    if dtype is not None:
        weights = {n: w.to(dtype) if w.is_floating_point() else w for n, w in weights.items()}
    return {
        name: value.contiguous(memory_format=torch.channels_last) if value.ndim == 4 else value
        for name, value in weights.items()
    }


def dummy_gradients(
    model: SharedModel,
    pixels: Tensor,
    targets: Tensor,
    layers: Sequence[str] | None = None,
    with_statistics: bool = False,
    factors: bool = False,
    weights: Weights | None = None,
) -> tuple[dict[str, Any], Statistics]:
    """Return the update that each run's dummies would make.

    The model computes in the precision of its weights, all else in that of the pixels.

    Args:
        pixels: shape (R, B, 3, size, size).
        targets: classes, shape (R, B), or class probabilities, shape (R, B, K).
        layers: as `layers_with_rules` returns them: layer by layer, or mapped if None.
        with_statistics: also return what BatchNorm layers see, shape (R, channels) each.
        factors: leave weight gradients of linear layers as `Factors` where those are smaller; only
            layer by layer.
        weights: what `weights_of` returns, to take it once for many calls.
    """
    weights = weights_of(model) if weights is None else weights
    if layers is None:
        return _mapped(model, weights, pixels, targets, with_statistics)
    return _layer_by_layer(model, weights, pixels, targets, layers, with_statistics, factors)


def layers_with_rules(model: SharedModel, images: Tensor) -> list[str] | None:
    """Return the layers that hold parameters, if gradients can be had layer by layer, else None.

    Each must have a rule and be met once in a forward pass, no parameter may belong to two, and
    none may normalise by the batch, which would tie the runs to each other.

    Args:
        images: any batch, shape (B, 3, size, size).
    """
    holders = {n: m for n, m in model.named_modules() if list(m.parameters(recurse=False))}
    parameters = [id(p) for m in holders.values() for p in m.parameters(recurse=False)]
    batch_norm = batch_norm_layers(model).values()
    if (
        len(set(parameters)) < len(parameters)
        or any(layer.training or layer.running_mean is None for layer in batch_norm)
        or not all(_has_rule(layer) for layer in holders.values())
    ):
        return None
    met: list[str] = []

    def meet(name: str, _inputs: tuple[Tensor, ...], _output: Tensor) -> None:
        met.append(name)

    with watched(holders, meet), torch.no_grad():
        model(images)
    return list(holders) if sorted(met) == sorted(holders) else None


def _mapped(
    model: SharedModel, weights: Weights, pixels: Tensor, targets: Tensor, with_statistics: bool
) -> tuple[dict[str, Any], Statistics]:
    parameters = {name: weights[name] for name, _ in model.named_parameters()}
    buffers = {name: value for name, value in weights.items() if name not in parameters}
    dtype = _dtype(weights)

    def loss(
        parameters: Weights, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        with recorded_statistics(model, record=with_statistics) as statistics:
            logits = functional_call(model, {**parameters, **buffers}, (images.to(dtype),))
        return functional.cross_entropy(logits.to(images.dtype), labels), statistics

    per_run = vmap(grad(loss, has_aux=True), in_dims=(None, 0, 0))
    gradients, statistics = each_tensor(
        per_run(parameters, pixels, targets), lambda found: found.to(pixels.dtype)
    )
    return gradients, statistics


def _dtype(weights: Weights) -> torch.dtype:
    return next(weight.dtype for weight in weights.values() if weight.is_floating_point())


def _layer_by_layer(
    model: SharedModel,
    weights: Weights,
    pixels: Tensor,
    targets: Tensor,
    layers: Sequence[str],
    with_statistics: bool,
    factors: bool,
) -> tuple[dict[str, Any], Statistics]:
    runs, size = pixels.shape[:2]
    images = pixels.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    if not images.requires_grad:
        images = images.detach().requires_grad_()  # δ needs a graph
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}

    def keep(name: str, given: tuple[Tensor, ...], output: Tensor) -> None:
        inputs[name], outputs[name] = given[0], output

    normalising = batch_norm_layers(model) if with_statistics else {}
    modules = {name: model.get_submodule(name) for name in [*layers, *normalising]}
    with torch.enable_grad():
        with watched(modules, keep):
            logits = functional_call(model, dict(weights), (images.to(_dtype(weights)),))
        logits = logits.to(images.dtype)
        loss = functional.cross_entropy(logits, targets.flatten(0, 1), reduction="sum") / size
        deltas = torch.autograd.grad(loss, [outputs[name] for name in layers], create_graph=True)
    update: dict[str, Any] = {}
    for name, delta in zip(layers, deltas, strict=True):
        found = RULES[type(modules[name])](modules[name], weights, name, inputs[name], delta, runs)
        for parameter, gradient in found.items():
            if isinstance(gradient, Factors) and not (factors and gradient.are_smaller):
                gradient = gradient.product()  # noqa: PLW2901
            update[f"{name}.{parameter}"] = gradient.to(images.dtype)
    statistics = {
        name: vmap(channel_moments)(
            inputs[name].to(images.dtype).view(runs, size, *inputs[name].shape[1:])
        )
        for name in normalising
    }
    return {name: update[name] for name, _ in model.named_parameters()}, statistics


Rule = Callable[[Any, Weights, str, Tensor, Tensor, int], dict[str, Any]]
"""A layer, the model's weights, the layer's name, inputs (R·B, …) and δ (R·B, …), and R, to the
gradient of each of its parameters, shape (R, …)."""


def _of_convolution(
    layer: nn.Conv2d, _weights: Weights, _name: str, inputs: Tensor, deltas: Tensor, runs: int
) -> dict[str, Any]:
    found = {"weight": weight_gradients(inputs, deltas, runs, Geometry.of(layer))}
    if layer.bias is not None:
        found["bias"] = _summed(deltas, runs)
    return found


def _of_linear(
    layer: nn.Linear, _weights: Weights, _name: str, inputs: Tensor, deltas: Tensor, runs: int
) -> dict[str, Any]:
    # Rows of one individual, if there are several, are rows of its run all the same.
    rows = deltas.reshape(runs, -1, layer.out_features)
    found: dict[str, Any] = {"weight": Factors(rows, inputs.reshape(runs, -1, layer.in_features))}
    if layer.bias is not None:
        found["bias"] = rows.sum(1)
    return found


def _of_batch_norm(
    layer: nn.BatchNorm2d, weights: Weights, name: str, inputs: Tensor, deltas: Tensor, runs: int
) -> dict[str, Any]:
    mean = weights[f"{name}.running_mean"][:, None, None]
    variance = weights[f"{name}.running_var"][:, None, None]
    normalised = (inputs - mean) * (variance + layer.eps).rsqrt()
    return {
        "weight": _summed(deltas * normalised, runs),
        "bias": _summed(deltas, runs),
    }


RULES: Mapping[type[nn.Module], Rule] = {
    nn.Conv2d: _of_convolution,
    nn.Linear: _of_linear,
    nn.BatchNorm2d: _of_batch_norm,
}


def _has_rule(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        plain = layer.groups == 1 and layer.padding_mode == "zeros"
        return type(layer) is nn.Conv2d and plain and not isinstance(layer.padding, str)
    return type(layer) in RULES


def _summed(images: Tensor, runs: int) -> Tensor:
    """Return the sum over each run's images and positions, shape (R, channels)."""
    return images.sum((2, 3)).view(runs, -1, images.shape[1]).sum(1)
