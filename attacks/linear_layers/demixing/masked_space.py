"""Before a hidden ReLU layer x_i is a mask times W_oᵀ r_i, with r_i in a known space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakbench.attacks.linear_layers.activations import Rectifier
from leakbench.attacks.linear_layers.demixing.gradient_space import (
    TINY,
    GradientSpace,
    rank_of,
    space_of,
)
from leakbench.attacks.linear_layers.demixing.observed_gradient import ObservedGradient
from leakbench.attacks.linear_layers.demixing.recovered import SPARE_UNITS
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.linear_layers.demixing.withheld import withheld_of
from leakbench.attacks.linear_layers.head import Head


@dataclass(frozen=True, kw_only=True)
class MaskedSpace(GradientSpace):
    """Where the x_i of one victim batch lie, rows scaled so that all units count alike.

    Attributes:
        residuals: Q of the space of the r_i, orthonormal, shape (K, q).
        directions: W_oᵀ Q, rows scaled, shape (m, q).
        slope: of the activation where a unit is inactive.
    """

    residuals: Tensor
    directions: Tensor
    slope: float

    @property
    def tells_apart(self) -> bool:
        """Whether enough units are left to tell individuals' vectors from others."""
        return self.rank + self.directions.shape[1] + SPARE_UNITS < self.units

    def derivatives(self, active: Tensor) -> Tensor:
        """Return the activation's derivatives for masks of active units, of any shape."""
        return self.slope + (1 - self.slope) * active.to(self.basis.dtype)


def masked_space_of(head: Head, batch: VictimBatch, observed: ObservedGradient) -> MaskedSpace:
    """Return where the x_i of a batch lie.

    Args:
        head: a hidden layer with a rectifier, and the output layer.
        batch: whose update is finite.
        observed: its gradient of the first layer.
    """
    activation = head.first.activation
    assert isinstance(activation, Rectifier)
    residuals = _residual_space(head, batch)
    directions = head.output.weight.T @ residuals
    length = directions.norm(dim=1)
    scale = 1 / length.clamp_min(LEAST_UNIT * length.median())
    space = space_of(observed, batch.individuals, scale, batch.precision(head))
    return MaskedSpace(
        **vars(space),
        residuals=residuals,
        directions=directions * space.scale[:, None],
        slope=activation.slope,
    )


def _residual_space(head: Head, batch: VictimBatch) -> Tensor:
    """Return Q of the space of the r_i, orthonormal, shape (K, q).

    Where a part of the output layer's gradient was withheld: of all vectors that add up to 0.
    """
    if withheld_of(head.output, batch.update, batch.reliability).any():
        outputs = len(head.output.bias)
        centred = torch.eye(outputs).to(head.output.weight)
        if head.loss.error_dimensions_lost:
            centred = centred - 1 / outputs
        every: Tensor = torch.linalg.svd(centred)[0][:, : head.error_dimensions]
        return every
    outer, values, _ = torch.linalg.svd(head.output.gradient(batch.update), full_matrices=False)
    rank = min(rank_of(values, batch.precision(head)), batch.individuals, head.error_dimensions)
    some: Tensor = outer[:, :rank]
    return some


def refine(active: Tensor, space: MaskedSpace) -> tuple[Tensor, Tensor, Tensor]:
    """Return the masked vectors W_oᵀ r nearest to the column space, from approximate masks.

    For a given mask the r of least distance to the space, relative to its length, is an
    eigenvector; the mask in turn follows from the vector's projection onto the space.

    Args:
        active: units of each mask, shape (m, n).

    Returns:
        Vectors and their masks, shape (m, n) each, and their relative distances from the space,
        shape (n,).
    """
    for iteration in range(REFINEMENTS):
        direction = space.directions @ _nearest_residuals(space.derivatives(active), space).mT
        vector = direction * space.derivatives(active)
        better = _nearer(_projected(vector, space.basis), direction, space.slope)
        if torch.equal(better, active) or iteration == REFINEMENTS - 1:
            break
        active = better
    return vector, active, _relative_distance(vector, space)


def repair(active: Tensor, space: MaskedSpace) -> tuple[Tensor, Tensor]:
    """Return the masked vectors nearest to the column space, from masks that are almost right.

    On a unit where W_oᵀ r is nearly 0, a vector's projection does not tell whether it is active:
    there the given mask stays.

    Args:
        active: units of each mask, shape (m, n).

    Returns:
        Vectors, shape (m, n), and their relative distances from the space, shape (n,).
    """
    mask = active
    for _ in range(REFINEMENTS):
        direction = space.directions @ _nearest_residuals(space.derivatives(mask), space).mT
        inside = _projected(direction * space.derivatives(mask), space.basis)
        undecided = direction.abs() < UNDECIDED * direction.square().mean(0).sqrt()
        mask = torch.where(undecided, active, _nearer(inside, direction, space.slope))
    direction = space.directions @ _nearest_residuals(space.derivatives(mask), space).mT
    vector = direction * space.derivatives(mask)
    return vector, _relative_distance(vector, space)


def _relative_distance(vector: Tensor, space: MaskedSpace) -> Tensor:
    """Return the distances of vectors (m, n) from the column space, relative, shape (n,)."""
    outside = vector - _projected(vector, space.basis)
    relative: Tensor = outside.norm(dim=0) / vector.norm(dim=0).clamp_min(TINY)
    return relative


def _nearer(x: Tensor, direction: Tensor, slope: float) -> Tensor:
    """Return where x is nearer to the direction than to slope times it."""
    active: Tensor = x * direction > (1 + slope) / 2 * direction.square()
    return active


def _nearest_residuals(derivatives: Tensor, space: MaskedSpace) -> Tensor:
    """Return the r for which derivatives ⊙ W_oᵀ r is nearest to the space, shape (n, q).

    Args:
        derivatives: shape (m, n).
    """
    masked = derivatives.mT[:, :, None] * space.directions
    length = masked.mT @ masked
    inside = space.basis.mT @ masked
    trace = length.diagonal(dim1=1, dim2=2).mean(1)
    eye = torch.eye(length.shape[1], dtype=length.dtype, device=length.device)
    root = torch.linalg.cholesky(length + (1e-12 * trace + TINY)[:, None, None] * eye)
    # A generalised eigenproblem, reduced to the ordinary one.
    distance = length - inside.mT @ inside
    half = torch.linalg.solve_triangular(root, distance, upper=False)
    whole = torch.linalg.solve_triangular(root, half.mT, upper=False)
    vectors = torch.linalg.eigh(whole).eigenvectors[:, :, :1]
    residuals: Tensor = torch.linalg.solve_triangular(root.mT, vectors, upper=True)
    return residuals[:, :, 0]


def _projected(x: Tensor, basis: Tensor) -> Tensor:
    """Return vectors (…, m, n) projected onto the span of orthonormal ones, (…, m, rank)."""
    onto: Tensor = basis @ (basis.mT @ x)
    return onto


LEAST_UNIT = 0.1
"""Least length, relative to the median, as which a unit's direction is scaled."""

UNDECIDED = 0.05
"""Size of W_oᵀ r, relative to its root mean square over units, below which x does not tell whether
a unit is active."""

REFINEMENTS = 8
"""Times that mask and r are computed from each other."""
