"""The column space and the row space of a layer's gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.observed_gradient import ObservedGradient
from leakbench.attacks.linear_layers.head import Head


@dataclass(frozen=True, kw_only=True)
class GradientSpace:
    """Where the x_i and the [h_i, 1] of one victim batch lie. Rows are scaled.

    Attributes:
        individuals: B.
        gradient: G of the first layer, rows scaled, shape (m, d + 1).
        scale: of the rows, shape (m,).
        basis: U of the column space of the scaled G, orthonormal, shape (m, rank).
        values: singular values of the scaled G, shape (rank,).
        rows: V of its row space, orthonormal, shape (d + 1, rank).
        noise: the next singular value, which no individual explains.
        is_predicted: whether a part of the features is predicted, so that z is not exact.
    """

    individuals: int
    gradient: Tensor
    scale: Tensor
    basis: Tensor
    values: Tensor
    rows: Tensor
    noise: float
    is_predicted: bool = False

    @property
    def rank(self) -> int:
        """Rank of the gradient: how many individuals it can distinguish."""
        return self.basis.shape[1]

    @property
    def units(self) -> int:
        """How many of the m units at least one individual activates."""
        return int((self.gradient != 0).any(1).sum())

    def distance(self, errors: Tensor) -> Tensor:
        """Return the relative distance of x (…, m), rows scaled, from the column space, shape (…).

        Infinite where the model is so sure of an individual's label that x is only rounding.
        """
        outside = errors - (errors @ self.basis) @ self.basis.mT
        length = errors.norm(dim=-1)
        negligible = length < NEGLIGIBLE * sqrt(errors.shape[-1])
        return torch.where(negligible, torch.inf, outside.norm(dim=-1) / length.clamp_min(TINY))

    def noise_sensitivity(self, vectors: Tensor) -> Tensor:
        """Return how far noise may move vectors (m, n) of the space, relative, shape (n,).

        Individuals that add little to the gradient lie where noise moves the space the most.
        """
        coordinates = self.basis.mT @ vectors / self.values[:, None]
        moved: Tensor = self.noise * coordinates.norm(dim=0) / vectors.norm(dim=0).clamp_min(TINY)
        return moved


def space_of(
    observed: ObservedGradient, individuals: int, scale: Tensor, precision: float
) -> GradientSpace:
    """Return where the x_i and h_i of a gradient lie.

    The rank is that which stands out of rounding.

    Args:
        observed: the gradient of [W, b], finite; columns that are not known are left out.
        scale: of the rows, shape (m,); those that are not known are left out.
        precision: the unit of the last place of the update's numbers.
    """
    scale = torch.where(observed.rows, scale, 0.0)
    known = functional.pad(observed.columns, (0, 1), value=True)
    gradient = observed.gradient[:, known] * scale[:, None]
    left, values, right = torch.linalg.svd(gradient, full_matrices=False)
    rank = min(rank_of(values, precision), individuals)
    return GradientSpace(
        individuals=individuals,
        gradient=gradient,
        scale=scale,
        basis=left[:, :rank],
        values=values[:rank],
        rows=right[:rank].mT,
        noise=max(
            float(values[rank]) if rank < len(values) else 0.0,
            # A completed gradient has no other singular values; its misfit stands for them.
            observed.misfit * float(scale.square().mean().sqrt()) * sum(map(sqrt, gradient.shape)),
        ),
        is_predicted=not bool(observed.columns.all()),
    )


def precision_of(head: Head, update: Mapping[str, Tensor]) -> float:
    """Return the unit of the last place of an update's numbers."""
    return torch.finfo(update[head.first.names[0]].dtype).eps


def rank_of(values: Tensor, precision: float) -> int:
    """Return how many singular values stand out of the rounding."""
    return max(1, int((values > ROUNDING * precision * values[0]).sum()))


ROUNDING = 8.0
"""Singular values of rounding are below this many units of the last place of the largest."""

NEGLIGIBLE = 1e-6
"""An x of less than this is rounding; rows are scaled to about 1."""

TINY = 1e-12
"""Below this a length is none."""
