"""What a model's layers take and return, in the order in which they compute."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakbench.federation.shared_model import SharedModel


@dataclass(frozen=True)
class Call:
    """One call of a layer with one tensor.

    Attributes:
        module: the layer; it has no layers inside.
        input, output: the same objects as those of the calls before and after, if nothing is
            computed between them.
    """

    module: nn.Module
    input: Tensor
    output: Tensor


def calls_of(model: SharedModel, examples: Tensor) -> tuple[list[Call], Tensor]:
    """Return the calls of the feature extractor's layers for some inputs, and deep features.

    Dropout that does nothing and identities are left out. Gradients stay enabled: PyTorch's
    transformer layers call their parts only then.
    """
    calls: list[Call] = []

    def keep(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
        if len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor):
            calls.append(Call(module, inputs[0], output))

    layers = (each for each in model.extractor.modules() if not list(each.children()))
    handles = [each.register_forward_hook(keep) for each in layers if not does_nothing(each)]
    try:
        features = model.features(examples)
    finally:
        for handle in handles:
            handle.remove()
    return calls, features.detach()


def producer(calls: list[Call], tensor: Tensor) -> Call | None:
    """Return the call that returned this very tensor."""
    return next((each for each in calls if each.output is tensor), None)


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


