"""Image priors, as pure functions over R runs at once: what natural images are like."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from leakbench.attacks.matching.distance import TINY

Statistics = Mapping[str, tuple[Tensor, Tensor]]
"""BatchNorm layer → mean and variance of its input over the batch, shape (R, channels) each."""


def total_variation(images: Tensor) -> Tensor:
    """Anisotropic total variation as in IG: mean |dx| + mean |dy|.

    Args:
        images: shape (R, B, channels, height, width).

    Returns:
        Shape (R,).

    >>> total_variation(torch.tensor([[0.0, 1.0], [0.0, 1.0]]).reshape(1, 1, 1, 2, 2))
    tensor([1.])
    """
    dx = (images[..., :, 1:] - images[..., :, :-1]).abs()
    dy = (images[..., 1:, :] - images[..., :-1, :]).abs()
    return dx.flatten(1).mean(1) + dy.flatten(1).mean(1)


def image_norm(images: Tensor) -> Tensor:
    """Mean over individuals of ‖x‖₂, shape (R,); images of shape (R, B, channels, h, w)."""
    return images.flatten(2).square().sum(2).clamp_min(TINY).sqrt().mean(1)


def statistics_distance(statistics: Statistics, target: Statistics) -> Tensor:
    """GradInversion's Σ_l ‖mean_l − mean*_l‖₂ + ‖var_l − var*_l‖₂ over BatchNorm layers.

    Returns:
        Shape (R,).
    """
    norms = [
        (dummy - true).square().sum(1).clamp_min(TINY).sqrt()
        for layer in target
        for dummy, true in zip(statistics[layer], target[layer], strict=True)
    ]
    return torch.stack(norms).sum(0)


def group_mean(images: Tensor, victim: Tensor) -> Tensor:
    """Return for each run the mean image of all runs of its victim, same shape as `images`.

    Args:
        images: shape (R, ...).
        victim: which victim a run belongs to, shape (R,).

    >>> group_mean(torch.tensor([[1.0], [3.0], [9.0]]), torch.tensor([0, 0, 1]))
    tensor([[2.],
            [2.],
            [9.]])
    """
    # As a product: adding by index is not deterministic on CUDA.
    together = (victim[:, None] == victim).to(images.dtype)
    mean = together @ images.flatten(1) / together.sum(1, keepdim=True)
    return mean.view_as(images)


def distance_to(images: Tensor, consensus: Tensor) -> Tensor:
    """Mean over individuals of ‖x − consensus‖₂, shape (R,)."""
    return image_norm(images - consensus)
