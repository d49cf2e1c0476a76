"""Before a hidden ReLU layer: x_i is a mask times W_oᵀ r, with r in a known space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.activations import Rectifier
from attacks.head import Head
from attacks.mixture import SPARE_UNITS, TINY, Space, precision_of, rank_of, space_of


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


def masked_space_of(head: Head, update: Mapping[str, Tensor], individuals: int) -> MaskedSpace:
    """Return where the x_i of an update lie.

    Args:
        head: a hidden layer with a rectifier, and the output layer.
        update: finite.
    """
    activation = head.first.activation
    assert isinstance(activation, Rectifier)
    outer, values, _ = torch.linalg.svd(head.output.gradient(update), full_matrices=False)
    rank = rank_of(values, precision_of(head, update))
    residuals = outer[:, : min(rank, individuals, head.classes - 1)]
    directions = head.output.weight.T @ residuals
    length = directions.norm(dim=1)
    scale = 1 / length.clamp_min(LEAST_UNIT * length.median())
    space = space_of(head, update, individuals, scale)
    return MaskedSpace(
        **vars(space),
        residuals=residuals,
        directions=directions * scale[:, None],
        slope=activation.slope,
    )


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
        better = nearer(_projected(vector, space.basis), s, space.slope)
        if torch.equal(better, on) or again == POLISHING - 1:
            break
        on = better
    gap = vector - _projected(vector, space.basis)
    return vector, on, gap.norm(dim=0) / vector.norm(dim=0).clamp_min(TINY)


def nearer(x: Tensor, s: Tensor, slope: float) -> Tensor:
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

POLISHING = 8
"""Times that mask and r follow from each other."""
