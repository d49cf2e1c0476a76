"""Search for masks times W_oᵀ r in a known space, by relaxed reflections from many starts."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from attacks.found import Found
from attacks.masked_space import MaskedSpace, nearer, polish
from attacks.mixture import BLUR, SPARE_UNITS, TINY, Others


class Reflections:
    """Runs of several victims side by side; tensors have shape (victims, …).

    A run is at x, shape (m,), and its last residual direction r, shape (q,). What a victim's runs
    do does not depend on the others: q of the widest is filled up with zeros.

    Args:
        spaces: of victims.
        found: takes what is found in each.
        runs: of each victim.
    """

    def __init__(
        self,
        spaces: Sequence[MaskedSpace],
        found: Sequence[Found],
        others: Others,
        seeds: Sequence[int],
        runs: int,
    ) -> None:
        self.spaces, self.found, self.others = spaces, found, others
        self.slope = spaces[0].slope
        self.draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.going = list(range(len(spaces)))
        self.basis = _padded([space.basis.float() for space in spaces])
        self.directions = _padded([space.directions.float() for space in spaces])
        self.squares = (self.directions[..., :, None] * self.directions[..., None, :]).flatten(-2)
        widths = [space.directions.shape[1] for space in spaces]
        self.widths = torch.tensor(widths, device=self.basis.device)
        victims, units, width = self.directions.shape
        self.x = self.basis.new_zeros(victims, units, runs)
        self.r = self.basis.new_zeros(victims, runs, width)
        self.left = torch.zeros(victims, runs, dtype=torch.long, device=self.x.device)

    def search(self, iterations: int) -> None:
        """Search until all victims' individuals are certain, or for so many iterations."""
        for iteration in range(iterations):
            self._start_afresh()
            near, on = self._nearest()
            self.x = self.x + STEP * (self._projected(2 * near - self.x) - near)
            self.left -= 1
            if iteration % HARVEST_EVERY == 0 and self._harvest(near, on):
                self._drop_finished()
                if not self.going:
                    break

    def _start_afresh(self) -> None:
        """Start those runs that have had their time.

        How long a run gets is drawn, mostly little, seldom much, for no time is right for all
        (Luby, Sinclair, Zuckerman 1993, Optimal speedup of Las Vegas algorithms).
        """
        over = self.left <= 0
        for place in over.any(1).nonzero().flatten().tolist():
            rows = over[place].nonzero().flatten()
            victim = self.going[place]
            space, draw, count = self.spaces[victim], self.draws[victim], len(rows)
            doubled = torch.empty(count).geometric_(0.5, generator=draw).sub(1).clamp_max(6)
            drawn = torch.randint(len(self.others), (count,), generator=draw)
            drawn = drawn.to(self.others.z.device)
            noise = torch.randn(space.rank, count, generator=draw).to(self.x.device)
            r = self.others.residuals[drawn] @ space.residuals.float()
            r = functional.pad(r, (0, self.r.shape[2] - r.shape[1]))
            s = self.directions[place] @ r.mT
            factor = _to_length(s, dim=0)
            s, r = s * factor, r * factor.mT
            masked = space.gains(self.others.z[drawn].mT > 0).float() * s
            # Away from those that are found already.
            known = torch.linalg.qr(self.found[victim].columns)[0].float()
            anywhere = space.basis.float() @ noise
            elsewhere = anywhere - known @ (known.mT @ anywhere)
            # Where they fill the space, what is left is rounding.
            left = elsewhere.norm(dim=0) > LITTLE * anywhere.norm(dim=0)
            elsewhere = torch.where(left, elsewhere, anywhere)
            self.x[place, :, rows] = masked + ELSEWHERE * _to_length(elsewhere, dim=0) * elsewhere
            self.r[place, rows] = r
            self.left[place, rows] = (SHORTEST * 2**doubled).long().to(self.left.device)

    def _nearest(self) -> tuple[Tensor, Tensor]:
        """Return masks times W_oᵀ r that are near to x, and the masks; keep r.

        The mask is the best one for the last r, the new r the best one for that mask; then the mask
        for that r. The length is fixed, else 0 would be everywhere.
        """
        q = self.directions.shape[2]
        gains = self._gains(nearer(self.x, self.directions @ self.r.mT, self.slope))
        normal = (gains.square().mT @ self.squares).reshape(*self.r.shape, q)
        trace = normal.diagonal(dim1=2, dim2=3).sum(2) / self.widths[:, None]
        eye = torch.eye(q, dtype=self.x.dtype, device=self.x.device)
        ridge = eye * (RIDGE * trace + TINY)[..., None, None]
        r = torch.linalg.solve(normal + ridge, (gains * self.x).mT @ self.directions)
        s = self.directions @ r.mT
        factor = _to_length(s, dim=1)
        s, self.r = s * factor, r * factor.mT
        on = nearer(self.x, s, self.slope)
        return s * self._gains(on), on

    def _gains(self, on: Tensor) -> Tensor:
        return self.slope + (1 - self.slope) * on.to(self.x.dtype)

    def _projected(self, x: Tensor) -> Tensor:
        onto: Tensor = self.basis @ (self.basis.mT @ x)
        return onto

    def _harvest(self, near: Tensor, on: Tensor) -> bool:
        """Take what is right and end its runs, also if it is not new; say if a victim is done."""
        gap = near - self._projected(near)
        promising = gap.norm(dim=1) < PROMISING * near.norm(dim=1)
        promising &= on.sum(1) > SPARE_UNITS
        done = False
        for place in promising.any(1).nonzero().flatten().tolist():
            rows = promising[place].nonzero().flatten()
            found = self.found[self.going[place]]
            right = harvest(on[place][:, rows], self.spaces[self.going[place]], found)
            self.left[place, rows[right]] = 0
            done |= found.done
        return done

    def _drop_finished(self) -> None:
        places = [place for place, victim in enumerate(self.going) if not self.found[victim].done]
        self.going = [self.going[place] for place in places]
        for name in ("basis", "directions", "squares", "widths", "x", "r", "left"):
            setattr(self, name, getattr(self, name)[places])


def harvest(on: Tensor, space: MaskedSpace, found: Found) -> Tensor:
    """Polish masks, take those that are right; say which, shape (n,).

    Args:
        on: shape (m, n).
    """
    polished, masks, gaps = polish(on, space)
    tolerances = (RIGHT + BLUR * space.blur(polished)).clamp_max(PROMISING)
    # Few units, or none, fit anywhere.
    right = (gaps < tolerances) & (masks.sum(0) > SPARE_UNITS)
    found.add(polished[:, right], gaps[right], tolerances[right])
    return right


def _to_length(x: Tensor, dim: int) -> Tensor:
    """Return by what to multiply vectors, along `dim`, for a mean square of ½."""
    factor: Tensor = sqrt(x.shape[dim] / 2) / x.norm(dim=dim, keepdim=True).clamp_min(TINY)
    return factor


def _padded(matrices: Sequence[Tensor]) -> Tensor:
    """Return matrices on one another, with columns of zeros to the width of the widest."""
    width = max(matrix.shape[1] for matrix in matrices)
    return torch.stack([functional.pad(m, (0, width - m.shape[1])) for m in matrices])


STEP = 0.5
"""Of the relaxed reflections, β."""

ELSEWHERE = 0.5
"""Length of the random part of a start beside that of somebody else's mask."""

SHORTEST = 50
"""Iterations of the shortest runs."""

HARVEST_EVERY = 4
"""Iterations between looks at what has been found."""

PROMISING = 0.05
"""Relative distance from the space at which a vector is polished."""

RIGHT = 1e-3
"""Relative distance from the space at which a polished vector is taken for an x_i."""

LITTLE = 1e-3
"""Share of a random vector that is no longer one of its own."""

RIDGE = 1e-5
"""Of the least squares in single precision, relative."""
