"""Search for individuals whose mask fits both spaces of a gradient, by relaxed reflections.

Before a hidden layer with a kink, who is in the batch has an x in the column space of the gradient
and a z = W h + b in what its row space leaves; and unit by unit they go together: where z > 0, x is
that of W_oᵀ r, where not, it is that times the slope. So a run at (z, x) is reflected at the spaces
and at the pairs that go together, by turns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.effort import Effort
from leakbench.attacks.linear_layers.demixing.found import Found
from leakbench.attacks.linear_layers.demixing.masked_space import MaskedSpace, mended, polish
from leakbench.attacks.linear_layers.demixing.mixture import BLUR, SPARE_UNITS, TINY, Others
from leakbench.attacks.linear_layers.demixing.remaining import remaining_after


class Reflections:
    """Runs of several victims side by side; tensors have shape (victims, …).

    A run is at z and x, shape (m,), and its last residual direction r, shape (q,). What a victim's
    runs do does not depend on the others: the widest one's dimensions are filled up with zeros.

    Args:
        spaces: of victims.
        found: takes what is found in each.
        others: of D_aux, from whom runs start; features as far as each space knows them.
        runs: of each victim.
    """

    def __init__(
        self,
        spaces: Sequence[MaskedSpace],
        found: Sequence[Found],
        others: Sequence[Others],
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
        self.z, self.r = torch.zeros_like(self.x), self.basis.new_zeros(victims, runs, width)
        self.origin = self.basis.new_zeros(victims, units, 1)
        self.left_basis = torch.zeros_like(self.basis)
        self.left = torch.zeros(victims, runs, dtype=torch.long, device=self.x.device)
        self.quiet = [0] * victims
        for place in range(victims):
            self._leave_out_found(place)

    def search(self, effort: Effort, progress: Callable[[float], None]) -> None:
        """Search until all are certain, or for as long as the effort says."""
        told = 0.0
        for iteration in range(effort.reflections):
            self._start_afresh()
            z, x, on = self._nearest()
            self.z = self.z + STEP * (self._left(2 * z - self.z) - z)
            self.x = self.x + STEP * (self._projected(2 * x - self.x) - x)
            self.left -= 1
            if iteration % HARVEST_EVERY == 0:
                self._harvest(x, on)
                self._drop_finished(effort.quiet)
                shares = [len(f) / s.rank for f, s in zip(self.found, self.spaces, strict=True)]
                told = max(told, sum(min(share, 1.0) for share in shares) / len(shares))
                progress(told)
                if not self.going:
                    break

    def _start_afresh(self) -> None:
        """Start those runs that have had their time, from individuals of D_aux.

        How long a run gets is drawn, mostly little, seldom much, for no time is right for all
        (Luby, Sinclair, Zuckerman 1993, Optimal speedup of Las Vegas algorithms).
        """
        over = self.left <= 0
        for place in over.any(1).nonzero().flatten().tolist():
            rows = over[place].nonzero().flatten()
            victim = self.going[place]
            space, others, draw = self.spaces[victim], self.others[victim], self.draws[victim]
            count = len(rows)
            doubled = torch.empty(count).geometric_(0.5, generator=draw).sub(1).clamp_max(6)
            drawn = torch.randint(len(others), (count,), generator=draw).to(others.z.device)
            noise = torch.randn(space.rank, count, generator=draw).to(self.x.device)
            r = others.residuals[drawn] @ space.residuals.float()
            r = functional.pad(r, (0, self.r.shape[2] - r.shape[1]))
            s = self.directions[place] @ r.mT
            factor = _to_length(s, dim=0)
            s, r = s * factor, r * factor.mT
            z = self._left(self._scaled(victim, others.z[drawn].mT), place)
            on = (others.z[drawn].mT if space.guessed else z) > 0
            anywhere = space.basis.float() @ noise
            anywhere = ELSEWHERE * _to_length(anywhere, dim=0) * anywhere
            self.z[place, :, rows] = z
            self.x[place, :, rows] = self._gains(on) * s + anywhere
            self.r[place, rows] = r
            self.left[place, rows] = (SHORTEST * 2**doubled).long().to(self.left.device)

    def _nearest(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return z and x that go together, near to those of the runs, and the masks; keep r.

        The mask is the best one for the last r, the new r the best one for that mask; then the mask
        for that r. The length of x is fixed, else 0 would be everywhere.
        """
        q = self.directions.shape[2]
        gains = self._gains(self._mask(self.directions @ self.r.mT))
        normal = (gains.square().mT @ self.squares).reshape(*self.r.shape, q)
        trace = normal.diagonal(dim1=2, dim2=3).sum(2) / self.widths[:, None]
        eye = torch.eye(q, dtype=self.x.dtype, device=self.x.device)
        ridge = eye * (RIDGE * trace + TINY)[..., None, None]
        r = torch.linalg.solve(normal + ridge, (gains * self.x).mT @ self.directions)
        s = self.directions @ r.mT
        factor = _to_length(s, dim=1)
        s, self.r = s * factor, r * factor.mT
        on = self._mask(s)
        return torch.where(on, self.z.clamp_min(0), self.z.clamp_max(0)), self._gains(on) * s, on

    def _mask(self, s: Tensor) -> Tensor:
        """Return where (z, x) is nearer to (z > 0, s) than to (z ≤ 0, slope · s)."""
        active = self.z.clamp_max(0).square() + (self.x - s).square()
        nearer: Tensor = active < self.z.clamp_min(0).square() + (self.x - self.slope * s).square()
        return nearer

    def _gains(self, on: Tensor) -> Tensor:
        return self.slope + (1 - self.slope) * on.to(self.x.dtype)

    def _projected(self, x: Tensor) -> Tensor:
        onto: Tensor = self.basis @ (self.basis.mT @ x)
        return onto

    def _left(self, z: Tensor, place: int | None = None) -> Tensor:
        """Return z projected onto what is left of the row space."""
        at = slice(None) if place is None else place
        away, basis = z - self.origin[at], self.left_basis[at]
        onto: Tensor = self.origin[at] + basis @ (basis.mT @ away)
        return onto

    def _scaled(self, victim: int, z: Tensor) -> Tensor:
        """Return z so that it weighs as much as x; not at all where z is a guess."""
        return z * 0 if self.spaces[victim].guessed else z / self.others[victim].z.std()

    def _leave_out_found(self, place: int) -> None:
        """Take those who are found out of the row space."""
        victim = self.going[place]
        space, head = self.spaces[victim], self.found[victim].head
        layer = head.first.extended() @ space.rows
        remaining = remaining_after(space, self.found[victim].columns)
        basis = torch.linalg.qr(layer @ remaining.directions.mT)[0].float()
        self.origin[place] = self._scaled(victim, (layer @ remaining.origin).float()[:, None])
        self.left_basis[place] = 0
        if not space.guessed:
            self.left_basis[place, :, : basis.shape[1]] = basis

    def _harvest(self, x: Tensor, on: Tensor) -> None:
        """Take what is right and end its runs, also if it is not new."""
        gap = x - self._projected(x)
        promising = gap.norm(dim=1) < PROMISING * x.norm(dim=1)
        promising &= on.sum(1) > SPARE_UNITS
        for place, victim in enumerate(self.going):
            self.quiet[victim] += HARVEST_EVERY
            rows = promising[place].nonzero().flatten()
            if len(rows):
                found = self.found[victim]
                before, reached = len(found), found.reached
                right = harvest(on[place][:, rows], self.spaces[victim], found)
                self.left[place, rows[right]] = 0
                if len(found) != before:
                    refine(self.spaces[victim], found)
                    if len(found) >= self.spaces[victim].rank and not found.done:
                        # They do not fit together: somebody among them is nobody.
                        found.forget()
                    self._leave_out_found(place)
                if found.reached > reached:
                    self.quiet[victim] = 0

    def _drop_finished(self, patience: int) -> None:
        """Go on with those victims who are neither found nor given up."""
        places = [
            place
            for place, victim in enumerate(self.going)
            if not self.found[victim].done and self.quiet[victim] < patience
        ]
        if len(places) == len(self.going):
            return
        self.going = [self.going[place] for place in places]
        of_spaces = ("basis", "directions", "squares", "widths", "origin", "left_basis")
        for name in (*of_spaces, "x", "z", "r", "left"):
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


def refine(space: MaskedSpace, found: Found) -> None:
    """Mend masks by the features that all columns make, where some are not certified yet.

    On a unit where W_oᵀ r is all but 0, x does not tell whether it is active; z does.
    """
    for _ in range(REFINING):
        who = found.individuals
        if who is None or len(found) < space.rank or bool(who.certified.all()):
            return
        columns = next(found.choices())
        extended = torch.linalg.pinv(columns) @ space.gradient
        factor = extended[:, -1:]
        z = found.head.first.forward(extended[:, :-1] / torch.where(factor == 0, 1.0, factor))
        active = (z > 0).mT
        vectors, gaps = mended(active, space)
        right = (gaps < RIGHT) & (active.sum(0) > SPARE_UNITS)
        found.add(vectors[:, right], gaps[right], torch.full_like(gaps[right], RIGHT))


def _to_length(x: Tensor, dim: int) -> Tensor:
    """Return by what to multiply vectors, along `dim`, for a mean square of ½."""
    factor: Tensor = sqrt(x.shape[dim] / 2) / x.norm(dim=dim, keepdim=True).clamp_min(TINY)
    return factor


def _padded(matrices: Sequence[Tensor]) -> Tensor:
    """Return matrices on one another, with columns of zeros to the width of the widest."""
    width = max(matrix.shape[1] for matrix in matrices)
    return torch.stack([functional.pad(m, (0, width - m.shape[1])) for m in matrices])


STEP = 0.5
"""Of the relaxed reflections (Elser, Rankenburg, Thibault 2007), β."""

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

REFINING = 3
"""Times that masks and features follow from each other."""

RIDGE = 1e-5
"""Of the least squares in single precision, relative."""
