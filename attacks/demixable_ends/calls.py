"""What a model's layers take and return, in the order in which they compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakbench.federation.shared_model import SharedModel


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer with one tensor.

    Attributes:
        module: the layer; it has no layers inside.
        input, output: what they were then; later operations in place do not change them.
        taken, returned: the tensors themselves, each with its version, which operations in place
            change.
    """

    module: nn.Module
    input: Tensor
    output: Tensor
    taken: tuple[Tensor, int]
    returned: tuple[Tensor, int]


def calls_of(model: SharedModel, examples: Tensor) -> tuple[list[Call], Tensor]:
    """Return the calls of the feature extractor's layers for some inputs, and deep features.

    Dropout that does nothing and identities are left out.

    Args:
        examples: few, as all that layers return is kept.
    """
    calls: list[Call] = []
    waiting: dict[nn.Module, tuple[Tensor, Tensor, int]] = {}

    def before(module: nn.Module, inputs: tuple[object, ...]) -> None:
        taken = inputs[0] if len(inputs) == 1 else None
        if isinstance(taken, Tensor):
            waiting[module] = (taken.detach().clone(), taken, taken._version)

    def after(module: nn.Module, _inputs: tuple[object, ...], output: object) -> None:
        if module in waiting and isinstance(output, Tensor):
            value, taken, version = waiting.pop(module)
            returned = (output, output._version)
            calls.append(Call(module, value, output.detach().clone(), (taken, version), returned))

    handles = []
    for each in leaves(model.extractor):
        handles += [each.register_forward_pre_hook(before), each.register_forward_hook(after)]
    try:
        with torch.no_grad():
            features = model.features(examples)
    finally:
        for handle in handles:
            handle.remove()
    return calls, features


def inputs_of(
    model: SharedModel, module: nn.Module, images: Tensor, at_once: int | None = None
) -> Tensor:
    """Return what the last call of a layer takes, in double precision on the CPU, shape (n, …).

    Args:
        at_once: images that the model computes at once, where that makes a difference.
    """
    taken: list[Tensor] = []
    parts = []
    handle = module.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0].clone()))
    try:
        with torch.no_grad():
            for some in torch.split(images, at_once or AT_ONCE):
                taken.clear()
                model.features(some)
                parts.append(double(taken[-1]))
    finally:
        handle.remove()
    return torch.cat(parts)


def producer(calls: list[Call], of: Call) -> Call | None:
    """Return the call whose output another one takes, if nothing is computed between them."""
    taken, version = of.taken
    return next((c for c in calls if c.returned[0] is taken and c.returned[1] == version), None)


def does_nothing(module: nn.Module) -> bool:
    """Return whether a layer returns what it takes."""
    dropout = isinstance(module, nn.Dropout | nn.Dropout2d) and not (module.training and module.p)
    return isinstance(module, nn.Identity) or dropout


def leaves(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the innermost layers that do something."""
    for each in module.modules():
        if not list(each.children()) and not does_nothing(each):
            yield each


def names_of(modules: list[nn.Module]) -> str:
    """Return the kinds of layers, in words."""
    return ", ".join(type(each).__name__ for each in modules) or "nothing"


def double(tensor: Tensor) -> Tensor:
    """Return a tensor in double precision on the CPU."""
    return tensor.detach().cpu().double()


def agrees(found: Tensor, expected: Tensor) -> bool:
    """Return whether two tensors differ by rounding alone."""
    found, expected = double(found), double(expected)
    return found.shape == expected.shape and torch.allclose(
        found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max())
    )


AT_ONCE = 16
"""Inputs that a model computes at once."""
