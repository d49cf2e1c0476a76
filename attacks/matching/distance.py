"""Distances between gradients, as pure functions over R runs at once.

A gradient is a mapping from parameter name to a tensor of shape (R, *parameter's). What the target
leaves out is left out of the distance. Distances that take nothing but inner products also take the
weight gradients of linear layers as factors, and targets whose norms are known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leakbench.attacks.matching.factors import Factors

Gradients = Mapping[str, Tensor]
"""Parameter name → gradient, shape (R, *parameter's)."""

FactoredGradients = Mapping[str, Tensor | Factors]
"""The same, some weight gradients of linear layers as factors."""


@dataclass(frozen=True)
class Measured:
    """Target gradients of one parameter with their norms, which no step need compute again.

    Attributes:
        gradient: shape (R, *parameter's).
        squared_norm: shape (R,).
    """

    gradient: Tensor
    squared_norm: Tensor


Target = Mapping[str, Tensor | Measured]
"""Parameter name → target gradient, for distances that take nothing but inner products."""

TINY = 1e-30
"""Keeps quotients and roots differentiable where a gradient is exactly zero."""


def squared_error(gradients: Gradients, target: Gradients) -> Tensor:
    """DLG (Zhu et al. 2019): Σ ‖∇ − ∇*‖², a plain sum over all parameters.

    Returns:
        Shape (R,), at least 0.
    """
    squares = [_flat(gradients[n] - target[n]).square().sum(1) for n in target]
    return torch.stack(squares).sum(0)


def squared_error_at_best_scale(gradients: FactoredGradients, target: Target) -> Tensor:
    """min_a Σ ‖a ∇ − ∇*‖² = ‖∇*‖² (1 − cos²), and ‖∇*‖² (1 + cos²) where cos < 0.

    With a ≥ 0 it would be flat there.

    Returns:
        Shape (R,), at least 0.

    >>> g = {"weight": torch.tensor([[30.0, 40.0]])}
    >>> squared_error_at_best_scale(g, {"weight": torch.tensor([[5.0, 0.0]])})
    tensor([16.])
    """
    cosine, _, _, target_norm = _cosine(gradients, target)
    return target_norm * (1 - cosine * cosine.abs())


def cosine_distance(gradients: FactoredGradients, target: Target) -> Tensor:
    """IG (Geiping et al. 2020): 1 − cos, over all layers as one vector.

    Returns:
        Shape (R,), in [0, 2] up to rounding.

    >>> g = {"weight": torch.tensor([[3.0, 4.0]])}
    >>> cosine_distance(g, {"weight": torch.tensor([[4.0, -3.0]])})
    tensor([1.])
    """
    return 1 - _cosine(gradients, target)[0]


def layerwise_norm(gradients: Gradients, target: Gradients) -> Tensor:
    """GradInversion (Yin et al. 2021): Σ_l ‖∇_l − ∇*_l‖₂, the unsquared norm of each tensor.

    Returns:
        Shape (R,), at least 0.

    >>> zero = {"a": torch.zeros(1, 2), "b": torch.zeros(1, 1)}
    >>> layerwise_norm({"a": torch.tensor([[3.0, 4.0]]), "b": torch.ones(1, 1)}, zero)
    tensor([6.])
    """
    squares = [_flat(gradients[n] - target[n]).square().sum(1) for n in target]
    return torch.stack(squares).clamp_min(TINY).sqrt().sum(0)


def cosine_gaussian_distance(
    gradients: FactoredGradients, target: Target, kernel_width: float
) -> Tensor:
    """Eq. 3 of Yang et al. 2022: cosine distance plus a Gaussian-kernel distance.

    d(g, g̃) = (1 − ⟨g, g̃⟩ / (‖g‖ ‖g̃‖)) + (1 − exp(−‖g − g̃‖² / σ²)), over all tensors of a part
    of the model as one vector.

    Args:
        kernel_width: σ² as a multiple of the target's ‖g‖².

    Returns:
        Shape (R,), in [0, 3]; 0 where the gradients are equal.

    >>> g = {"weight": torch.tensor([[3.0, 4.0]])}
    >>> cosine_gaussian_distance(g, g, 1.0)
    tensor([0.])
    >>> cosine_gaussian_distance({"weight": -g["weight"]}, g, 1.0)  # 2 + (1 − e⁻⁴)
    tensor([2.9817])
    """
    cosine, inner, norm, target_norm = _cosine(gradients, target)
    # ‖g − g̃‖² from the same three sums: one pass over the gradients less than by subtraction.
    difference = (norm + target_norm - 2 * inner).clamp_min(0)
    variance = kernel_width * target_norm.clamp_min(TINY)
    return (1 - cosine) + (1 - torch.exp(-difference / variance))


def _cosine(gradients: FactoredGradients, target: Target) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return cos, ⟨g, g̃⟩, ‖g̃‖² and ‖g‖², shape (R,) each."""
    inner = torch.stack([_inner_product(gradients[n], target[n]) for n in target]).sum(0)
    norm = torch.stack([squared_norm(gradients[n]) for n in target]).sum(0)
    target_norm = torch.stack([squared_norm(g) for g in target.values()]).sum(0)
    # Each norm for itself: the product of two tiny squares would underflow.
    length = norm.clamp_min(TINY).sqrt() * target_norm.clamp_min(TINY).sqrt()
    return inner / length, inner, norm, target_norm


def _inner_product(a: Tensor | Factors, b: Tensor | Measured) -> Tensor:
    """Return ⟨a, b⟩ of one parameter's gradients, shape (R,)."""
    other = b.gradient if isinstance(b, Measured) else b
    if isinstance(a, Factors):
        return a.inner_product(other)
    product: Tensor = torch.linalg.vecdot(_flat(a), _flat(other))
    return product


def weighted(gradients: Mapping[str, Any], reliability: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return gradients times how far each entry is to be believed.

    Args:
        reliability: parameter name → factors that broadcast to the gradients, shape (R, ...).

    >>> weighted({"w": torch.ones(1, 2), "b": torch.ones(1, 1)}, {"w": torch.tensor([[0.0, 0.5]])})
    {'w': tensor([[0.0000, 0.5000]]), 'b': tensor([[1.]])}
    """
    return {n: _times(g, reliability[n]) if n in reliability else g for n, g in gradients.items()}


def _times(gradients: Tensor | Factors, reliability: Tensor) -> Tensor | Factors:
    if not isinstance(gradients, Factors):
        return gradients * reliability
    if reliability[0].numel() == 1:
        return gradients.scaled(reliability)
    return gradients.product() * reliability


def squared_norm(a: Tensor | Factors | Measured) -> Tensor:
    """Return ‖a‖² of one parameter's gradients, shape (R,)."""
    if isinstance(a, Measured):
        return a.squared_norm
    return a.squared_norm() if isinstance(a, Factors) else _inner_product(a, a)


def _flat(gradients: Tensor) -> Tensor:
    """Return gradients as vectors, shape (R, n), kernels in the order in which they lie."""
    return (gradients.movedim(2, -1) if gradients.ndim == 5 else gradients).flatten(1)
