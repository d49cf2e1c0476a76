"""Coordinates of the dummies' features, in which as few numbers as possible are unknown."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.gradient_space import TINY, rank_of


@dataclass(frozen=True)
class Standard:
    """Mean and deviation of D_aux's features, where and as the head computes.

    Attributes:
        mean: shape (d,).
        deviation: positive, shape (d,).
    """

    mean: Tensor
    deviation: Tensor


@dataclass(frozen=True)
class Coordinates:
    """An affine space in which the features of one victim batch are sought: h = origin + P u.

    The gradient of the first layer is G = Σ_i x_i [h_i, 1]ᵀ. Where its rank is B, all [h_i, 1] lie
    in its row space, and of an individual's d numbers B − 1 are unknown. Where it is less, features
    are sought in the row space and the principal directions of D_aux.

    Attributes:
        origin: the space's feature nearest to the mean of D_aux, shape (d,).
        directions: P, orthonormal when divided by D_aux's deviation, shape (d, q).
        basis: orthonormal basis V of the space of [h, 1], shape (d + 1, n).
        scale: factor of each of the n columns of a gradient G V before it is compared, shape (n,).
    """

    origin: Tensor
    directions: Tensor
    basis: Tensor
    scale: Tensor

    @property
    def unknowns(self) -> int:
        """q, of each individual."""
        return self.directions.shape[1]

    def features(self, unknowns: Tensor) -> Tensor:
        """Return h of unknowns (…, q), shape (…, d)."""
        return self.origin + unknowns @ self.directions.mT

    def nearest(self, features: Tensor, standard: Standard) -> Tensor:
        """Return u of the nearest features of the space, when standardised; (…, d) → (…, q)."""
        weighted = self.directions / standard.deviation.square()[:, None]
        return (features - self.origin) @ weighted


def coordinates_of(
    gradient: Tensor, individuals: int, precision: float, features: Tensor, standard: Standard
) -> Coordinates:
    """Return where the features of a batch are sought.

    Args:
        gradient: of the first layer's [W, b], finite and not zero, shape (m, d + 1).
        individuals: B.
        precision: the unit of the last place of the update's numbers.
        features: of D_aux, shape (n, d).
    """
    _, values, right = torch.linalg.svd(gradient, full_matrices=False)
    rank = min(rank_of(values, precision), individuals)
    rows = right[:rank].mT
    if rank == individuals and float(rows[-1].norm()) > TINY:
        return _of_row_space(rows, values[:rank], standard)
    return _with_principal_directions(rows, individuals, features, standard)


def _of_row_space(rows: Tensor, values: Tensor, standard: Standard) -> Coordinates:
    """Return coordinates of the [h, 1] in the row space, of orthonormal basis `rows`."""
    # [h, 1] = V c has a last entry of 1 for c = c₀ + N t, the columns of N orthogonal to v.
    v = rows[-1]
    null = torch.linalg.svd(v[None]).Vh[1:].mT
    start, span = rows[:-1] @ (v / v.square().sum()), rows[:-1] @ null
    orthonormal, _ = torch.linalg.qr(span / standard.deviation[:, None])
    outside = (start - standard.mean) / standard.deviation
    nearest = start - standard.deviation * (orthonormal @ (orthonormal.mT @ outside))
    return Coordinates(
        origin=nearest,
        directions=standard.deviation[:, None] * orthonormal,
        basis=rows,
        scale=(values / values[0]) ** -EQUALISED,
    )


def _with_principal_directions(
    rows: Tensor, individuals: int, features: Tensor, standard: Standard
) -> Coordinates:
    """Return coordinates of features that vary as the row space does, and as D_aux does most."""
    standardised = (features - standard.mean) / standard.deviation
    count = min(PRINCIPAL // individuals + 1, *standardised.shape)
    principal = torch.linalg.svd(standardised, full_matrices=False).Vh[:count].mT
    # What is in the row space is the mean's multiple [mean, 1] and a direction [·, 0].
    seen = (rows[:-1] - standard.mean[:, None] * rows[-1]) / standard.deviation[:, None]
    orthonormal = torch.linalg.qr(torch.cat([seen, principal], dim=1)).Q[:, :count]
    directions = standard.deviation[:, None] * orthonormal
    spanned = functional.pad(directions.mT, (0, 1))
    origin = functional.pad(standard.mean, (0, 1), value=1.0)
    basis = torch.linalg.qr(torch.cat([spanned, origin[None]]).mT).Q
    return Coordinates(
        origin=standard.mean,
        directions=directions,
        basis=basis,
        scale=torch.ones_like(basis[0]),
    )


EQUALISED = 0.5
"""Power of the singular values by which the gradient's rows are divided: individuals of whose label
the model is nearly sure add little to the gradient. With 0 they are found last or never, with 1 the
search gets stuck more often."""

PRINCIPAL = 512
"""About how many numbers are unknown, of all individuals, where the row space has too few
dimensions."""
