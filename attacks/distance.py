"""Distances between gradients, as pure functions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

TINY = 1e-20
"""Keeps quotients finite where a gradient is exactly zero."""


def cosine_gaussian_distance(
    gradient: Sequence[Tensor], target: Sequence[Tensor], variance: Tensor
) -> Tensor:
    """Eq. 3 of Yang et al. 2022: cosine distance plus a Gaussian-kernel distance.

    d(g, g̃) = (1 − ⟨g, g̃⟩ / (‖g‖ ‖g̃‖)) + (1 − exp(−‖g − g̃‖² / σ²)), over all tensors of a part
    of the model as one vector.

    Args:
        gradient: g̃, one tensor for each parameter.
        target: g, tensors of the same shapes.
        variance: σ² > 0 of the kernel, a scalar.

    Returns:
        A scalar in [0, 3]; 0 where the gradients are equal.

    >>> g = [torch.tensor([3.0, 4.0])]
    >>> cosine_gaussian_distance(g, g, torch.tensor(25.0)).item()
    0.0
    >>> cosine_gaussian_distance([-g[0]], g, torch.tensor(25.0)).item()  # 2 + (1 − e⁻⁴)
    2.981684446334839
    """
    inner = _sum(g * t for g, t in zip(gradient, target, strict=True))
    squared_norms = _sum(g.square() for g in gradient) * squared_norm(target)
    squared_difference = _sum((g - t).square() for g, t in zip(gradient, target, strict=True))
    cosine = inner / squared_norms.clamp_min(TINY).sqrt()
    return (1 - cosine) + (1 - torch.exp(-squared_difference / variance))


def squared_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Return ‖g‖² of all tensors as one vector, a scalar."""
    return _sum(t.square() for t in tensors)


def _sum(terms: object) -> Tensor:
    return torch.stack([term.sum() for term in terms]).sum()  # type: ignore[attr-defined]
