"""Search for the errors x of single positions in the column space of a gradient.

Where the derivative of the activation is one of two numbers for each channel, x is a mask times
W_oᵀ r. A run at (z, x) is reflected at the spaces in which z and x lie and at the pairs that belong
together, alternately, as in `linear_layers.demixing.reflections`; here channels may have two kinks,
z need not be known, and every position that is found is at once taken out of the space of z.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.convolutional_ends.kinked import Kinked

TINY = 1e-12
"""Below this a length is none."""


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


@dataclass(frozen=True)
class Sought:
    """What is searched for.

    Attributes:
        basis: of the column space, orthonormal, rows scaled, in double precision, shape (m, rank).
        directions: W_oᵀ Q with Q a basis of the residuals, rows scaled, shape (m, q).
        activation: for z as it is scaled.
        starts: z of positions of other individuals, shape (m, n).
        residuals: coordinates of p − e_y of these individuals, shape (n, q).
        tolerance: relative distance from the space that rounding explains for some vectors (m, n),
            shape (n,).
    """

    basis: Tensor
    directions: Tensor
    activation: Kinked
    starts: Tensor
    residuals: Tensor
    tolerance: Callable[[Tensor], Tensor]


@dataclass
class FoundColumns:
    """Masks that are in the space, and their x.

    Attributes:
        vectors: of length 1, shape (m, n).
        active: their masks, shape (m, n).
        residuals: their r, up to factors, shape (n, q).
    """

    vectors: Tensor
    active: Tensor
    residuals: Tensor
    _known: set[bytes] = field(default_factory=set)

    def __len__(self) -> int:
        return self.vectors.shape[1]

    def new(self, active: Tensor) -> Tensor:
        """Return the numbers of masks (m, n) that are not known, each once."""
        rows: dict[bytes, int] = {}
        for number, mask in enumerate(active.mT.cpu().numpy()):
            rows.setdefault(mask.tobytes(), number)
        fresh = [number for mask, number in rows.items() if mask not in self._known]
        return torch.tensor(fresh, dtype=torch.long, device=active.device)

    def add(self, vectors: Tensor, active: Tensor, residuals: Tensor) -> None:
        """Take vectors and masks (m, n), and r (n, q)."""
        self._known.update(mask.tobytes() for mask in active.mT.cpu().numpy())
        self.vectors = torch.cat([self.vectors, functional.normalize(vectors, dim=0)], dim=1)
        self.active = torch.cat([self.active, active], dim=1)
        self.residuals = torch.cat([self.residuals, residuals])


class PositionSearch:
    """Runs side by side; tensors have shape (m, runs).

    Args:
        sought: what is searched for.
        z_space: where z is, for the columns that are found so far; None where z is not known.
        runs: how many.
        seed: of the starts.
    """

    def __init__(
        self,
        sought: Sought,
        z_space: Callable[[Tensor], AffineSpace] | None,
        runs: int,
        seed: int,
    ) -> None:
        self.sought, self._z_space = sought, z_space
        self.basis, self.directions = sought.basis.float(), sought.directions.float()
        self.activation = sought.activation.to(self.basis)
        self.squares = (self.directions[:, :, None] * self.directions[:, None]).flatten(1)
        self.generator = torch.Generator().manual_seed(seed)
        m, q = self.directions.shape
        none = sought.basis.new_empty(m, 0)
        self.found = FoundColumns(none, none.bool(), sought.basis.new_empty(0, q))
        self.x = self.basis.new_zeros(m, runs)
        self.z, self.r = torch.zeros_like(self.x), self.basis.new_zeros(runs, q)
        self.left = torch.zeros(runs, dtype=torch.long)
        self.keeps_r = torch.zeros(runs, 1, dtype=torch.bool)
        self.affine = z_space(none) if z_space else None
        self.trust = TRUST

    def search(self, wanted: int, iterations: int, patience: int) -> FoundColumns:
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
        return self.found

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
        self.z[:, rows] = z if self.affine is not None else 0.0
        self.r[rows] = r * factor.mT
        self.left[rows] = (SHORTEST * 2**doubled).long()

    def _pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return z and x that belong together, near those of the runs, and the masks; keep r."""
        zs = [self.activation.nearest(self.z, active) for active in (False, True)]
        away = [(self.z - z).square_() for z in zs] if self.affine is not None else None
        derivatives = self.activation.derivative(self._mask(self.directions @ self.r.mT, away))
        q = self.r.shape[1]
        normal = (derivatives.square().mT @ self.squares).reshape(-1, q, q)
        wanted = (derivatives * self.x).mT @ self.directions
        if q == 1:
            r = wanted / (normal[:, :, 0] + TINY)
        else:
            ridge = RIDGE * normal.diagonal(dim1=1, dim2=2).mean(1) + TINY
            eye = torch.eye(q, dtype=normal.dtype, device=normal.device)
            r = torch.linalg.solve(normal + ridge[:, None, None] * eye, wanted)
            r = torch.where(self.keeps_r, self.r, r)
        direction = self.directions @ r.mT
        factor = _to_length(direction)
        direction, self.r = direction * factor, r * factor.mT
        active = self._mask(direction, away)
        z = torch.where(active, zs[1], zs[0]) if away is not None else self.z
        return z, self.activation.derivative(active) * direction, active

    def _mask(self, direction: Tensor, away: list[Tensor] | None) -> Tensor:
        """Return where (z, x) is nearer to an active channel's than to an inactive one's."""
        # (x − slope d)² − (x − d)² = (1 − slope) d (2x − (1 + slope) d)
        slope = self.activation.slope[:, None]
        gain = (1 - slope) * direction * (2 * self.x - (1 + slope) * direction)
        if away is None:
            return gain > 0
        return gain > self.trust * (away[1] - away[0])

    def _harvest(self, x: Tensor, active: Tensor) -> bool:
        """Take masks that are in the space and new; return whether there are any."""
        outside = (x - self._inside(x)).norm(dim=0)
        count = active.sum(0)
        promising = (outside < PROMISING * x.norm(dim=0)) & (count > LEAST_ACTIVE)
        promising &= count < len(active) - LEAST_ACTIVE
        rows = promising.nonzero().flatten()
        if not len(rows):
            return False
        rows = rows[self.found.new(active[:, rows])]
        before = len(self.found)
        if len(rows):
            vectors, masks, r, distances = refined(active[:, rows], self.sought)
            right = distances < self.sought.tolerance(vectors)
            self.left[rows[right]] = 0
            vectors, masks, r = vectors[:, right], masks[:, right], r[right]
            fresh = self.found.new(masks)
            if len(fresh):
                self.found.add(vectors[:, fresh], masks[:, fresh], r[fresh])
                if self._z_space is not None:
                    self.affine = self._z_space(self.found.vectors)
                    left = max(1, self.affine.basis.shape[1]) / self.basis.shape[1]
                    self.trust = TRUST / sqrt(left)
        # Runs at a mask that is known begin anew.
        known = torch.ones(len(promising), dtype=torch.bool)
        known[rows] = False
        self.left[promising & known] = 0
        return len(self.found) > before


def refined(active: Tensor, sought: Sought) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the masked vectors W_oᵀ r nearest to the column space, from approximate masks.

    Args:
        active: shape (m, n).

    Returns:
        Vectors and masks, shape (m, n) each, their r, shape (n, q), and relative distances from the
        space, shape (n,).
    """
    activation, basis = sought.activation.to(sought.basis), sought.basis
    slope = activation.slope[:, None]
    for iteration in range(REFINEMENTS):
        derivative = activation.derivative(active)
        r = _nearest_residuals(derivative, sought)
        direction = sought.directions @ r.mT
        vector = derivative * direction
        inside = basis @ (basis.mT @ vector)
        better = (inside - (1 + slope) / 2 * direction) * direction > 0
        if torch.equal(better, active) or iteration == REFINEMENTS - 1:
            break
        active = better
    distances = (vector - inside).norm(dim=0) / vector.norm(dim=0).clamp_min(TINY)
    return vector, active, r, distances


def _nearest_residuals(derivative: Tensor, sought: Sought) -> Tensor:
    """Return the r for which derivative ⊙ W_oᵀ r is nearest to the space, relative, (n, q)."""
    if sought.directions.shape[1] == 1:
        return derivative.new_ones(derivative.shape[1], 1)
    masked = derivative.mT[:, :, None] * sought.directions
    length = masked.mT @ masked
    inside = sought.basis.mT @ masked
    trace = length.diagonal(dim1=1, dim2=2).mean(1)
    eye = torch.eye(length.shape[1]).to(length)
    root = torch.linalg.cholesky(length + (1e-12 * trace + TINY)[:, None, None] * eye)
    half = torch.linalg.solve_triangular(root, length - inside.mT @ inside, upper=False)
    whole = torch.linalg.solve_triangular(root, half.mT, upper=False)
    nearest = torch.linalg.eigh(whole).eigenvectors[:, :, :1]
    residuals: Tensor = torch.linalg.solve_triangular(root.mT, nearest, upper=True)
    return residuals[:, :, 0]


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

RIDGE = 1e-5
"""Relative ridge of the least squares in single precision."""

PROMISING = 0.1
"""Relative distance from the space up to which a vector is refined."""

LEAST_ACTIVE = 10
"""Fewest channels of a mask that are active, and that are not: others fit anywhere."""

REFINEMENTS = 8
"""Times that mask and r are computed from each other."""
