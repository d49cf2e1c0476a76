"""Before a hidden ReLU layer: x_i is a mask times W_oᵀ r, with r in a known space."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from leakbench.attacks.linear_layers.activations import Rectifier
from leakbench.attacks.linear_layers.demixing.batch import Batch
from leakbench.attacks.linear_layers.demixing.mixture import (
    SPARE_UNITS,
    TINY,
    Space,
    rank_of,
    space_of,
)
from leakbench.attacks.linear_layers.demixing.sent import Sent
from leakbench.attacks.linear_layers.demixing.withheld import withheld_of
from leakbench.attacks.linear_layers.head import Head


@dataclass(frozen=True, kw_only=True)
class MaskedSpace(Space):
    """Where the x_i of one victim batch lie, rows scaled so that all units count alike.

    Attributes:
        residuals: Q of the space of the r_i, orthonormal, shape (K, q).
        directions: W_oᵀ Q, rows scaled, shape (m, q).
        slope: of the activation where a unit is not active.
    """

    residuals: Tensor
    directions: Tensor
    slope: float

    @property
    def tells_apart(self) -> bool:
        """Whether other vectors than individuals' are kept out: by all units but these."""
        return self.rank + self.directions.shape[1] + SPARE_UNITS < self.units

    def gains(self, on: Tensor) -> Tensor:
        """Return what masks of active units, of any shape, multiply by."""
        return self.slope + (1 - self.slope) * on.to(self.basis.dtype)


def masked_space_of(head: Head, batch: Batch, received: Sent) -> MaskedSpace:
    """Return where the x_i of a batch lie.

    Args:
        head: a hidden layer with a rectifier, and the output layer.
        batch: whose update is finite.
        received: its gradient of the first layer.
    """
    activation = head.first.activation
    assert isinstance(activation, Rectifier)
    residuals = _residual_space(head, batch)
    directions = head.output.weight.T @ residuals
    length = directions.norm(dim=1)
    scale = 1 / length.clamp_min(LEAST_UNIT * length.median())
    space = space_of(received, batch.individuals, scale, batch.precision(head))
    return MaskedSpace(
        **vars(space),
        residuals=residuals,
        directions=directions * space.scale[:, None],
        slope=activation.slope,
    )


def _residual_space(head: Head, batch: Batch) -> Tensor:
    """Return Q of the space of the r_i, orthonormal, shape (K, q).

    Where a part of the output layer's gradient was withheld it is all that adds up to 0.
    """
    if withheld_of(head.output, batch.update, batch.reliability).any():
        centred = torch.eye(head.classes).to(head.output.weight) - 1 / head.classes
        every: Tensor = torch.linalg.svd(centred)[0][:, : head.classes - 1]
        return every
    outer, values, _ = torch.linalg.svd(head.output.gradient(batch.update), full_matrices=False)
    rank = min(rank_of(values, batch.precision(head)), batch.individuals, head.classes - 1)
    some: Tensor = outer[:, :rank]
    return some


def polish(on: Tensor, space: MaskedSpace) -> tuple[Tensor, Tensor, Tensor]:
    """Return the vectors with both properties that given masks are near to, and how nearly.

    For its mask the r of least distance to the space, relative to its length, is an eigenvector;
    the mask follows from the vector's projection.

    Args:
        on: active units, shape (m, n).

    Returns:
        Vectors and their masks, shape (m, n) each, and their relative distances to the space,
        shape (n,).
    """
    for again in range(POLISHING):
        r = _least_distant(space.gains(on), space)
        s = space.directions @ r.mT
        vector = s * space.gains(on)
        better = _nearer(_projected(vector, space.basis), s, space.slope)
        if torch.equal(better, on) or again == POLISHING - 1:
            break
        on = better
    gap = vector - _projected(vector, space.basis)
    return vector, on, gap.norm(dim=0) / vector.norm(dim=0).clamp_min(TINY)


def mended(active: Tensor, space: MaskedSpace) -> tuple[Tensor, Tensor]:
    """Return the vectors with both properties for masks that are about right.

    On a unit where W_oᵀ r is all but 0, a vector's projection does not tell whether it is active:
    there the mask stays.

    Args:
        active: units, shape (m, n).

    Returns:
        Vectors, shape (m, n), and their relative distances to the space, shape (n,).
    """
    on = active
    for _ in range(POLISHING):
        s = space.directions @ _least_distant(space.gains(on), space).mT
        inside = _projected(s * space.gains(on), space.basis)
        little = s.abs() < LITTLE * s.square().mean(0).sqrt()
        on = torch.where(little, active, _nearer(inside, s, space.slope))
    vector = (space.directions @ _least_distant(space.gains(on), space).mT) * space.gains(on)
    gap = vector - _projected(vector, space.basis)
    return vector, gap.norm(dim=0) / vector.norm(dim=0).clamp_min(TINY)


def _nearer(x: Tensor, s: Tensor, slope: float) -> Tensor:
    """Return where x is nearer to s than to slope · s."""
    on: Tensor = x * s > (1 + slope) / 2 * s.square()
    return on


def _least_distant(gains: Tensor, space: MaskedSpace) -> Tensor:
    """Return the r for which gains ⊙ W_oᵀ r is the least distant from the space, shape (n, q)."""
    masked = gains.mT[:, :, None] * space.directions
    length = masked.mT @ masked
    inside = space.basis.mT @ masked
    trace = length.diagonal(dim1=1, dim2=2).mean(1)
    eye = torch.eye(length.shape[1], dtype=length.dtype, device=length.device)
    root = torch.linalg.cholesky(length + (1e-12 * trace + TINY)[:, None, None] * eye)
    # A generalised eigenproblem, brought to the ordinary one.
    distance = length - inside.mT @ inside
    half = torch.linalg.solve_triangular(root, distance, upper=False)
    whole = torch.linalg.solve_triangular(root, half.mT, upper=False)
    vectors = torch.linalg.eigh(whole).eigenvectors[:, :, :1]
    found: Tensor = torch.linalg.solve_triangular(root.mT, vectors, upper=True)
    return found[:, :, 0]


def _projected(x: Tensor, basis: Tensor) -> Tensor:
    """Return vectors (…, m, n) projected onto the span of orthonormal ones, (…, m, rank)."""
    onto: Tensor = basis @ (basis.mT @ x)
    return onto


LEAST_UNIT = 0.1
"""A unit's row is scaled up as if its direction had at least this length, of the median's."""

LITTLE = 0.05
"""Of the root mean square of W_oᵀ r over units: below this x does not tell who is active."""

POLISHING = 8
"""Times that mask and r follow from each other."""
