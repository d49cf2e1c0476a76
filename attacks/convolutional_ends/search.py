"""Search for the errors x of single positions in both spaces of a gradient, where z is known.

Where the derivative of the activation is one of two numbers for each channel, x is a mask times
W_oᵀ r. A run at (z, x) is reflected at the spaces in which z and x lie and at the pairs that belong
together, alternately, as in `linear_layers.demixing.reflections`; here channels may have two kinks,
and every position that is found is at once taken out of the space of z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from leakbench.attacks.convolutional_ends.found import FoundColumns
from leakbench.attacks.convolutional_ends.masked_vectors import (
    TINY,
    Sought,
    nearest_coefficients,
    take,
)


@dataclass(frozen=True)
class AffineSpace:
    """z = origin + t · basis.

    Attributes:
        origin: shape (m, 1).
        basis: orthonormal, shape (m, n).
    """

    origin: Tensor
    basis: Tensor

    def projected(self, z: Tensor) -> Tensor:
        """Return the nearest vectors of the space, shape (m, runs)."""
        away = z - self.origin
        return self.origin + self.basis @ (self.basis.mT @ away)


class PositionSearch:
    """Runs side by side; tensors have shape (m, runs).

    Args:
        sought: what is searched for.
        found: takes what is found.
        z_space: where z is, for the columns that are found so far; None where that is not known,
            as behind a shortcut: then x alone is searched for.
        runs: how many.
        seed: of the starts.
    """

    def __init__(
        self,
        sought: Sought,
        found: FoundColumns,
        z_space: Callable[[Tensor], AffineSpace] | None,
        runs: int,
        seed: int,
    ) -> None:
        self.sought, self.found, self._z_space = sought, found, z_space
        self.basis, self.directions = sought.basis.float(), sought.directions.float()
        self.activation = sought.activation.to(self.basis)
        self.generator = torch.Generator().manual_seed(seed)
        m, q = self.directions.shape
        self.x = self.basis.new_zeros(m, runs)
        self.z, self.r = torch.zeros_like(self.x), self.basis.new_zeros(runs, q)
        self.left = torch.zeros(runs, dtype=torch.long)
        self.keeps_r = torch.zeros(runs, 1, dtype=torch.bool)
        self._whole = self.basis.shape[1]
        self.affine: AffineSpace | None = None
        self._deflate()

    def search(self, wanted: int, iterations: int, patience: int) -> None:
        """Search until so many columns are found, or none for so many iterations."""
        idle = 0
        for iteration in range(iterations):
            self._restart()
            z, x, active = self._pairs()
            if self.affine is not None:
                self.z = self.z + STEP * (self.affine.projected(2 * z - self.z) - z)
            self.x = self.x + STEP * (self._inside(2 * x - self.x) - x)
            self.left -= 1
            if iteration % HARVEST_EVERY == HARVEST_EVERY - 1:
                idle = 0 if self._harvest(x, active) else idle + HARVEST_EVERY
                if len(self.found) >= wanted or idle >= patience:
                    break

    def _deflate(self) -> None:
        """Take what is found out of the space of z, and trust z the more."""
        self.affine, self.trust = None, 0.0
        if self._z_space is not None:
            self.affine = self._z_space(self.found.vectors)
            self.trust = TRUST * sqrt(self._whole / max(1, self.affine.basis.shape[1]))

    def _inside(self, x: Tensor) -> Tensor:
        return self.basis @ (self.basis.mT @ x)

    def _restart(self) -> None:
        """Start runs whose time is over; a few are long, most are short."""
        rows = (self.left <= 0).nonzero().flatten()
        count = len(rows)
        if not count:
            return
        draw = self.generator
        doubled = torch.empty(count).geometric_(0.5, generator=draw).sub(1).clamp_max(LONGEST)
        chosen = torch.randint(self.sought.starts.shape[1], (count,), generator=draw)
        r = self.sought.residuals[chosen].to(self.r)
        if len(self.found) and self.r.shape[1] > 1:
            # The other positions of an individual have the r of one that is found.
            known = torch.randint(len(self.found), (count,), generator=draw)
            self.keeps_r[rows] = torch.rand(count, 1, generator=draw) < 0.5
            r = torch.where(self.keeps_r[rows], self.found.residuals[known].to(r), r)
        noise = torch.randn(self.basis.shape[1], count, generator=draw).to(self.x)
        direction = self.directions @ r.mT
        factor = _to_length(direction)
        z = self.sought.starts[:, chosen].to(self.x)
        if self.affine is not None:
            z = self.affine.projected(z)
        random = self.basis @ noise
        mask = self.activation.derivative(self.activation.active(z))
        self.x[:, rows] = mask * direction * factor + RANDOM_PART * _to_length(random) * random
        self.z[:, rows] = z
        self.r[rows] = r * factor.mT
        self.left[rows] = (SHORTEST * 2**doubled).long()

    def _pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return z and x that belong together, near those of the runs, and the masks; keep r."""
        zs = [self.activation.nearest(self.z, active) for active in (False, True)]
        away = [(self.z - z).square_() for z in zs]
        derivatives = self.activation.derivative(self._mask(self.directions @ self.r.mT, away))
        r = nearest_coefficients(derivatives, self.directions, self.x)
        if r.shape[1] > 1:
            r = torch.where(self.keeps_r, self.r, r)
        direction = self.directions @ r.mT
        factor = _to_length(direction)
        direction, self.r = direction * factor, r * factor.mT
        active = self._mask(direction, away)
        z = torch.where(active, zs[1], zs[0])
        return z, self.activation.derivative(active) * direction, active

    def _mask(self, direction: Tensor, away: list[Tensor]) -> Tensor:
        """Return where (z, x) is nearer to an active channel's than to an inactive one's."""
        return self.activation.nearer(self.x, direction, self.trust * (away[1] - away[0]))

    def _harvest(self, x: Tensor, active: Tensor) -> bool:
        """Take masks that are in the space and new; return whether there are any."""
        before = len(self.found)
        outside = (x - self._inside(x)).norm(dim=0)
        right = take(active, outside, x.norm(dim=0), self.sought, self.found)
        # Runs at a mask that is known begin anew.
        self.left[right] = 0
        if len(self.found) == before:
            return False
        self._deflate()
        return True


def _to_length(x: Tensor) -> Tensor:
    """Return the factors of vectors (m, n) for a mean square of ½, shape (1, n)."""
    factor: Tensor = sqrt(x.shape[0] / 2) / x.norm(dim=0, keepdim=True).clamp_min(TINY)
    return factor


STEP = 0.4
"""Step β of the relaxed reflections (Elser, Rankenburg, Thibault 2007)."""

RANDOM_PART = 0.5
"""Length of the random part of a start, relative to that of the mask it begins with."""

SHORTEST = 50
"""Iterations of the shortest runs."""

LONGEST = 2
"""How many times the longest runs are twice as long."""

TRUST = 0.06
"""How much squares of z count beside those of x where nothing is known of z but the row space; the
smaller its space, the more."""

HARVEST_EVERY = 4
"""Iterations between looks at what has been found."""
