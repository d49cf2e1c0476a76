"""Weight gradients of linear layers kept as two factors, where those are smaller than the product.

The weight gradient of a linear layer is Σ_i δ_i h_iᵀ over the batch, δ_i being the gradient of the
loss by the layer's output and h_i its input. An inner product with it, and its norm, need only the
factors; for a hidden layer of 256 units over 2,048 features they are a few thousand numbers instead
of half a million.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Factors:
    """The weight gradients Σ_i δ_i h_iᵀ of one linear layer in R runs.

    Attributes:
        deltas: gradient of the loss by the layer's output, shape (R, B, m).
        inputs: the layer's input, shape (R, B, d).
    """

    deltas: Tensor
    inputs: Tensor

    @property
    def are_smaller(self) -> bool:
        """Whether they hold fewer numbers than their product."""
        _, individuals, outputs = self.deltas.shape
        return factors_are_smaller(individuals, outputs, self.inputs.shape[2])

    def to(self, dtype: torch.dtype) -> Factors:
        """Return the factors in another precision."""
        return Factors(self.deltas.to(dtype), self.inputs.to(dtype))

    def scaled(self, factor: Tensor) -> Factors:
        """Return the factors of the gradients times a number each, shape (R, 1, 1)."""
        return Factors(self.deltas * factor, self.inputs)

    def and_of(self, other: Factors) -> Factors:
        """Return the factors of the sum of both gradients.

        >>> one = Factors(torch.ones(1, 2, 3), torch.ones(1, 2, 4))
        >>> bool((one.and_of(one).product() == one.product() + one.product()).all())
        True
        """
        deltas = torch.cat([self.deltas, other.deltas], 1)
        return Factors(deltas, torch.cat([self.inputs, other.inputs], 1))

    def product(self) -> Tensor:
        """Return the gradients themselves, shape (R, m, d)."""
        return self.deltas.mT @ self.inputs

    def inner_product(self, other: Tensor) -> Tensor:
        """Return the inner product with other gradients of shape (R, m, d), shape (R,).

        >>> f = Factors(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 4.0, 5.0]]]))
        >>> f.inner_product(torch.ones(1, 2, 3)), f.product().sum()
        (tensor([36.]), tensor(36.))
        """
        product: Tensor = _InnerProduct.apply(self.deltas, self.inputs, other)
        return product

    def squared_norm(self) -> Tensor:
        """Return ‖Σ_i δ_i h_iᵀ‖² = Σ_ij ⟨δ_i, δ_j⟩⟨h_i, h_j⟩, shape (R,).

        >>> f = Factors(torch.tensor([[[1.0, 2.0]]]), torch.tensor([[[3.0, 4.0, 5.0]]]))
        >>> f.squared_norm(), f.product().square().sum()
        (tensor([250.]), tensor(250.))
        """
        gram = (self.deltas @ self.deltas.mT) * (self.inputs @ self.inputs.mT)
        return gram.sum((1, 2))


class _InnerProduct(torch.autograd.Function):
    """⟨Σ_i δ_i h_iᵀ, other⟩, differentiable once by δ and h: `other` is read twice in all."""

    @staticmethod
    def forward(ctx: Any, deltas: Tensor, inputs: Tensor, other: Tensor) -> Tensor:
        by_deltas = _matmul(inputs, other.mT)
        ctx.save_for_backward(deltas, by_deltas, other)
        product: Tensor = (deltas * by_deltas).sum((1, 2))
        return product

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor, None]:
        deltas, by_deltas, other = ctx.saved_tensors
        slope = slope[:, None, None]
        return slope * by_deltas, _matmul(slope * deltas, other), None


@torch.library.custom_op(
    "leakbench::matmul", mutates_args=(), schema="(Tensor left, Tensor right) -> Tensor"
)
def _matmul(left: Tensor, right: Tensor) -> Tensor:
    # Where `left` has one row, the compiler would write it out, and read `right` by columns.
    return torch.bmm(left, right)


@_matmul.register_fake
def _(left: Tensor, right: Tensor) -> Tensor:
    return left.new_empty(*left.shape[:2], right.shape[2])


def factors_are_smaller(individuals: int, outputs: int, inputs: int) -> bool:
    """Whether the factors of a layer hold fewer numbers than their product.

    >>> factors_are_smaller(8, 256, 2048), factors_are_smaller(8, 8, 256)
    (True, False)
    """
    return individuals * (outputs + inputs) < outputs * inputs
