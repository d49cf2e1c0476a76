"""The update that dummy data would make, for R runs at once, differentiably.

Two ways give the same gradients. *Layer by layer*: all R·B dummies pass through the model as one
batch, and each run's gradients follow from every layer's inputs and the gradients δ of the loss by
its outputs. It is the faster one, and open to models that treat individuals apart. *Mapped*:
`torch.func.vmap` over runs, for every other model.

Layer by layer, each layer has a rule of `layer_rules`. Of a parameter that a larger module holds
directly, as a transformer its class token, every individual gets a copy, and the gradients of a
run's copies are summed. So are the contributions to a parameter that is met more than once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from leakbench.attacks.matching.affine_batch_norm import affine, of_affine, stays_native
from leakbench.attacks.matching.attention import attending
from leakbench.attacks.matching.factors import Factors
from leakbench.attacks.matching.layer_rules import Weights, rule_of
from leakbench.attacks.matching.priors import Statistics
from leakbench.attacks.matching.runs import each_tensor
from leakbench.attacks.matching.second_derivatives import twice_differentiable
from leakbench.base.memory import is_out_of_memory
from leakbench.federation.batch_norm import (
    batch_norm_layers,
    channel_moments,
    normalises_by_batch,
    recorded_statistics,
)
from leakbench.federation.client import client_update
from leakbench.federation.shared_model import SharedModel, watched


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
    """Return the modules that hold parameters, if gradients can be had layer by layer, else None.

    None may normalise by the batch, which would tie the runs to each other. Whether two runs have
    the gradients of two clients is tried here, with an image and its mirror image.

    Args:
        images: any batch, shape (B, 3, size, size).
    """
    if normalises_by_batch(model):
        return None
    layers = [n for n, m in model.named_modules() if list(m.parameters(recurse=False))]
    tried = torch.stack([images[:1], images[:1].flip(-1)])
    return layers if _agrees(model, layers, tried) else None


def _agrees(model: SharedModel, layers: Sequence[str], images: Tensor) -> bool:
    """Whether layer by layer each run has a client's gradients, up to rounding.

    Args:
        images: of the runs, shape (R, B, 3, size, size).
    """
    labels = torch.zeros(images.shape[:2], dtype=torch.long, device=images.device)
    try:
        found, _ = dummy_gradients(model, images, labels, layers)
        clients = [client_update(model, *batch) for batch in zip(images, labels, strict=True)]
    except Exception as error:  # of a layer that cannot be called as it is here
        if is_out_of_memory(error):
            raise
        return False
    for run, sent in enumerate(clients):
        whole = torch.stack([gradient.norm() for gradient in sent.values()]).norm()
        for name, gradient in sent.items():
            if found[name].shape[1:] != gradient.shape:
                return False
            distance = (found[name][run] - gradient).norm()
            # Not where a number is infinite or none: the model is what it is.
            if distance > ROUNDING * (gradient.norm() + whole / 20):
                return False
    return True


def _mapped(
    model: SharedModel, weights: Weights, pixels: Tensor, targets: Tensor, with_statistics: bool
) -> tuple[dict[str, Any], Statistics]:
    parameters = {name: weights[name] for name, _ in model.named_parameters()}
    buffers = {name: value for name, value in weights.items() if name not in parameters}
    dtype = _dtype(weights)

    def loss(
        parameters: Weights, images: Tensor, labels: Tensor
    ) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        recorded = recorded_statistics(model, with_statistics)
        with recorded as statistics, twice_differentiable(mapped=True):
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
    seen: dict[str, Tensor] = {}

    def see(name: str, given: tuple[Tensor, ...], _output: Tensor) -> None:
        seen[name] = given[0]

    modules = {name: model.get_submodule(name) for name in layers}
    names, place = _one_name_each(model), {name: n for n, name in enumerate(layers)}
    own = _for_each_individual(modules, weights, names, len(images))
    batch_norm = batch_norm_layers(model)
    normalising = batch_norm if with_statistics else {}
    simple = {} if stays_native(model) else batch_norm
    with torch.enable_grad():
        with watched(normalising, see), affine(simple.values()), _met(model, modules) as calls:
            logits = functional_call(model, {**weights, **own}, (images.to(_dtype(weights)),))
        logits = logits.to(images.dtype)
        loss = functional.cross_entropy(logits, targets.flatten(0, 1), reduction="sum") / size
        calls.sort(key=lambda call: place[call.layer])
        outputs = [*(call.output for call in calls), *own.values()]
        deltas = torch.autograd.grad(loss, outputs, create_graph=True)
    update: dict[str, Any] = {}
    for call, delta in zip(calls, deltas, strict=False):
        layer = modules[call.layer]
        its = {n: weights[names[f"{call.layer}.{n}"]] for n in _tensors(layer)}
        rule = of_affine if call.layer in simple else rule_of(layer)
        for parameter, gradient in rule(layer, its, call.inputs, delta, runs).items():
            name = names[f"{call.layer}.{parameter}"]
            update[name] = _sum(update[name], gradient) if name in update else gradient
    for name, delta in zip(own, deltas[len(calls) :], strict=True):
        of_run = delta.view(runs, size, *delta.shape[1:]).sum(1)
        gradient = of_run.view(runs, *weights[name].shape)
        update[name] = _sum(update[name], gradient) if name in update else gradient
    told = {n: _told(update[n], factors, images.dtype) for n, _ in model.named_parameters()}
    statistics = {
        name: vmap(channel_moments)(
            seen[name].to(images.dtype).view(runs, size, *seen[name].shape[1:])
        )
        for name in normalising
    }
    return told, statistics


@dataclass(frozen=True)
class _Call:
    """One call of a layer in a forward pass: its name, what it was given, what it returned."""

    layer: str
    inputs: Tensor
    output: Tensor


@contextmanager
def _met(model: SharedModel, modules: Mapping[str, nn.Module]) -> Iterator[list[_Call]]:
    """Record the calls of innermost layers, and of attention's linear maps."""
    calls: list[_Call] = []

    def meet(name: str, inputs: Tensor, output: Tensor) -> None:
        if name in modules:
            calls.append(_Call(name, inputs, output))

    def called(name: str, given: tuple[Tensor, ...], output: Tensor) -> None:
        (inputs,) = given
        meet(name, inputs, output)

    innermost = {name: layer for name, layer in modules.items() if not list(layer.children())}
    with watched(innermost, called), attending(model, meet), twice_differentiable(mapped=False):
        yield calls


def _for_each_individual(
    modules: Mapping[str, nn.Module], weights: Weights, names: Mapping[str, str], count: int
) -> dict[str, Tensor]:
    """Return parameters that larger modules hold directly, a copy for each of `count` individuals.

    The copies are the first axis, where the parameter has none of length 1 in front.
    """
    own = {}
    for name, module in modules.items():
        if list(module.children()) and type(module) is not nn.MultiheadAttention:
            for parameter, _ in module.named_parameters(recurse=False):
                shared = weights[names[f"{name}.{parameter}"]]
                batched = shared if shared.ndim > 1 and len(shared) == 1 else shared[None]
                copies = batched.expand(count, *batched.shape[1:])
                own[names[f"{name}.{parameter}"]] = copies.detach().requires_grad_()
    return own


def _one_name_each(model: SharedModel) -> dict[str, str]:
    """Return every name of a parameter or buffer → the name under which the model lists it."""
    listed: dict[int, str] = {}
    every = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ]
    return {name: listed.setdefault(id(tensor), name) for name, tensor in every}


def _tensors(layer: nn.Module) -> list[str]:
    """Return the names of a layer's own parameters and buffers."""
    every = [*layer._parameters.items(), *layer._buffers.items()]
    return [name for name, tensor in every if tensor is not None]


def _sum(one: Any, other: Any) -> Any:
    """Return the sum of two gradients of a parameter, one after the other if both are factors."""
    if isinstance(one, Factors) and isinstance(other, Factors):
        return one.and_of(other)
    first, second = (g.product() if isinstance(g, Factors) else g for g in (one, other))
    return first + second


def _told(gradient: Any, factors: bool, dtype: torch.dtype) -> Any:
    """Return a gradient in a precision, as factors if they are wanted and smaller."""
    if isinstance(gradient, Factors) and not (factors and gradient.are_smaller):
        gradient = gradient.product()
    return gradient.to(dtype)


ROUNDING = 0.02
"""Relative distance of gradients that are the same but for rounding, that of TF32 included."""
