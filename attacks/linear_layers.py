"""Gradients of linear layers kept as two factors, where those are smaller than the product.

The weight gradient of a linear layer is Σ_i δ_i h_iᵀ over the batch, δ_i being the gradient of the
loss by the layer's output and h_i its input. An inner product with it, and its norm, need only the
factors; for a hidden layer of 256 units over 2,048 features they are a few thousand numbers instead
of half a million.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.models import SharedModel


@dataclass(frozen=True)
class Factors:
    """The weight gradients Σ_i δ_i h_iᵀ of one linear layer in R runs.

    Attributes:
        deltas: gradient of the loss by the layer's output, shape (R, B, m).
        inputs: the layer's input, shape (R, B, d).
    """

    deltas: Tensor
    inputs: Tensor

    def product(self) -> Tensor:
        """Return the gradients themselves, shape (R, m, d)."""
        return self.deltas.mT @ self.inputs

    def inner_product(self, other: Tensor) -> Tensor:
        """Return the inner product with other gradients of shape (R, m, d), shape (R,).

        >>> f = Factors(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 4.0, 5.0]]]))
        >>> f.inner_product(torch.ones(1, 2, 3)), f.product().sum()
        (tensor([36.]), tensor(36.))
        """
        return (self.deltas * (self.inputs @ other.mT)).sum((1, 2))

    def squared_norm(self) -> Tensor:
        """Return ‖Σ_i δ_i h_iᵀ‖² = Σ_ij ⟨δ_i, δ_j⟩⟨h_i, h_j⟩, shape (R,).

        >>> f = Factors(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 4.0, 5.0]]]))
        >>> f.squared_norm(), f.product().square().sum()
        (tensor([250.]), tensor(250.))
        """
        gram = (self.deltas @ self.deltas.mT) * (self.inputs @ self.inputs.mT)
        return gram.sum((1, 2))


def factored_layers(model: SharedModel, images: Tensor) -> list[str]:
    """Return the linear layers whose weight gradients are cheaper kept as factors.

    Those are layers with B · (m + d) < m · d that a forward pass meets once, with one vector for
    each individual, and whose weight no other module shares.

    Args:
        images: any batch of the size that will be matched, shape (B, 3, size, size).
    """
    parameters = dict(model.named_parameters())
    owners = [id(p) for module in model.modules() for p in module.parameters(recurse=False)]
    shapes: dict[str, list[torch.Size]] = {}
    linear = {name: m for name, m in model.named_modules() if type(m) is nn.Linear}
    handles = [
        layer.register_forward_hook(
            lambda _module, inputs, _output, name=name: shapes.setdefault(name, []).append(
                inputs[0].shape
            )
        )
        for name, layer in linear.items()
    ]
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return [
        name
        for name, layer in linear.items()
        if shapes.get(name) == [torch.Size([len(images), layer.in_features])]
        and f"{name}.weight" in parameters
        and owners.count(id(layer.weight)) == 1
        and len(images) * sum(layer.weight.shape) < layer.weight.numel()
    ]


@contextmanager
def shifted_outputs(
    model: SharedModel, shifts: Mapping[str, Tensor]
) -> Iterator[dict[str, Tensor]]:
    """Add a shift to the output of each named layer; yield what becomes the layers' inputs.

    The gradient of the loss by a shift of zero is δ.
    """
    inputs: dict[str, Tensor] = {}

    def shift(name: str, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
        inputs[name] = given[0]
        return output + shifts[name]

    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda _module, given, output, name=name: shift(name, given, output)
        )
        for name in shifts
    ]
    try:
        yield inputs
    finally:
        for handle in handles:
            handle.remove()
