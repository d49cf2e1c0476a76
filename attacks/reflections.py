"""Search for masks times W_oᵀ r in a known space, by relaxed reflections from many starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, islice
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from attacks.mixture import BLUR, SPARE_UNITS, TINY, Demixed, Guesses, Space


@dataclass
class Found:
    """What has been found in one space.

    Attributes:
        columns: of length 1, shape (m, n).
        gaps: their relative distances to the space, shape (n,).
        individuals: behind the best of them.
    """

    columns: Tensor
    gaps: Tensor
    individuals: Demixed | None = None

    def add(self, columns: Tensor, gaps: Tensor, tolerances: Tensor, most: int) -> bool:
        """Take columns that are new, or nearer than the same ones were; say if any is new.

        Args:
            tolerances: distances at which columns are taken: they are the same within about that.
            most: how many to keep, the nearest to the space.
        """
        new = False
        each = zip(functional.normalize(columns, dim=0).unbind(1), gaps, tolerances, strict=True)
        for column, gap, tolerance in each:
            apart = max(SAME, float(4 * tolerance.square()))
            same = (self.columns.mT @ column).abs() > 1 - apart
            if (self.gaps[same] <= gap).any():
                continue
            new |= not bool(same.any())
            self.columns = torch.cat([self.columns[:, ~same], column[:, None]], dim=1)
            self.gaps = torch.cat([self.gaps[~same], gap[None]])
        kept = self.gaps.argsort()[:most]
        self.columns, self.gaps = self.columns[:, kept], self.gaps[kept]
        return new

    def choices(self, count: int) -> Iterator[Tensor]:
        """Yield columns, so many of them or all, the nearest to the space first.

        There may be more than individuals: of three, two of whom differ in few units, mask 1 +
        mask 2 − mask 3 may be a mask too. Only the right ones make individuals who are certain.
        """
        order = self.gaps.argsort()
        few = len(order) <= count + SPARE_COLUMNS
        choices = combinations(order.tolist(), min(count, len(order)))
        for chosen in islice(choices, CHOICES if few else 1):
            yield self.columns[:, list(chosen)]


class Search:
    """Runs of several victims side by side; tensors have shape (victims, …).

    A run is at x, shape (m,), and its last residual direction r, shape (q,). What a victim's runs
    do does not depend on the others: q of the widest is filled up with zeros.

    Args:
        who: stands behind columns of a space.
        runs: of each victim.
    """

    def __init__(
        self,
        spaces: Sequence[Space],
        guesses: Guesses,
        who: Callable[[Space, Tensor], Demixed],
        seeds: Sequence[int],
        runs: int,
    ) -> None:
        self.spaces, self.guesses, self.who = spaces, guesses, who
        self.draws = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.found = [
            Found(space.basis.new_empty(len(space.basis), 0), space.basis.new_empty(0))
            for space in spaces
        ]
        self.going = list(range(len(spaces)))
        self.basis = _padded([space.basis.float() for space in spaces])
        self.directions = _padded([space.directions.float() for space in spaces])
        self.squares = _outer_squares(self.directions)
        widths = [space.directions.shape[1] for space in spaces]
        self.widths = torch.tensor(widths, device=self.basis.device)
        victims, units, width = self.directions.shape
        self.x = self.basis.new_zeros(victims, units, runs)
        self.r = self.basis.new_zeros(victims, runs, width)
        self.left = torch.zeros(victims, runs, dtype=torch.long, device=self.x.device)

    def individuals(self, iterations: int) -> list[Demixed]:
        """Return who is found behind each victim's update.

        A victim's search ends when all its individuals are certain, or after so many iterations.
        """
        for iteration in range(iterations):
            self._start_afresh()
            near, self.r = _nearest(self.x, self.r, self.directions, self.squares, self.widths)
            self.x = self.x + STEP * (_projected(2 * near - self.x, self.basis) - near)
            self.left -= 1
            if iteration % HARVEST_EVERY == 0 and self._harvest(near):
                self._drop_finished()
                if not self.going:
                    break
        return [
            self.who(space, next(found.choices(space.rank)))
            if found.individuals is None
            else found.individuals
            for space, found in zip(self.spaces, self.found, strict=True)
        ]

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
            drawn = torch.randint(len(self.guesses.masks), (count,), generator=draw)
            drawn = drawn.to(self.guesses.masks.device)
            noise = torch.randn(space.rank, count, generator=draw).to(self.x.device)
            r = self.guesses.residuals[drawn] @ space.residuals.float()
            r = functional.pad(r, (0, self.r.shape[2] - r.shape[1]))
            s = self.directions[place] @ r.mT
            r = r * _to_length(s, dim=0).mT
            masked = self.guesses.masks[drawn].mT * (self.directions[place] @ r.mT)
            # Away from those that are found already.
            known = torch.linalg.qr(self.found[victim].columns)[0].float()
            anywhere = space.basis.float() @ noise
            elsewhere = anywhere - _projected(anywhere, known)
            # Where they fill the space, what is left is rounding.
            left = elsewhere.norm(dim=0) > LITTLE * anywhere.norm(dim=0)
            elsewhere = torch.where(left, elsewhere, anywhere)
            self.x[place, :, rows] = masked + ELSEWHERE * _to_length(elsewhere, dim=0) * elsewhere
            self.r[place, rows] = r
            self.left[place, rows] = (SHORTEST * 2**doubled).long().to(self.left.device)

    def _harvest(self, near: Tensor) -> bool:
        """Take what is right and end its runs, also if it is not new; say if a victim is done."""
        active = (near != 0).sum(1)
        gap = near - _projected(near, self.basis)
        promising = gap.norm(dim=1) < PROMISING * near.norm(dim=1)
        # Few units, or none, fit anywhere.
        enough = self.widths + SPARE_UNITS
        promising &= active > enough[:, None]
        done = False
        for place in promising.any(1).nonzero().flatten().tolist():
            space, found = self.spaces[self.going[place]], self.found[self.going[place]]
            rows = promising[place].nonzero().flatten()
            polished, gaps = polish(near[place][:, rows].double(), space)
            tolerances = (RIGHT + BLUR * space.blur(polished)).clamp_max(PROMISING)
            right = (gaps < tolerances) & ((polished != 0).sum(0) > enough[place])
            self.left[place, rows[right]] = 0
            most = 2 * space.rank + SPARE_COLUMNS
            new = found.add(polished[:, right], gaps[right], tolerances[right], most)
            if new and len(found.gaps) >= space.rank:
                found.individuals = self._most_certain(space, found)
                done |= bool(found.individuals.certain.all())
        return done

    def _most_certain(self, space: Space, found: Found) -> Demixed:
        best: Demixed | None = None
        for columns in found.choices(space.rank):
            individuals = self.who(space, columns)
            if best is None or individuals.certain.sum() > best.certain.sum():
                best = individuals
            if best.certain.all():
                break
        assert best is not None
        return best

    def _drop_finished(self) -> None:
        so_far = [self.found[victim].individuals for victim in self.going]
        places = [
            place
            for place, individuals in enumerate(so_far)
            if individuals is None or not individuals.certain.all()
        ]
        self.going = [self.going[place] for place in places]
        for name in ("basis", "directions", "squares", "widths", "x", "r", "left"):
            setattr(self, name, getattr(self, name)[places])


def _nearest(
    x: Tensor, r: Tensor, directions: Tensor, squares: Tensor, widths: Tensor
) -> tuple[Tensor, Tensor]:
    """Return a mask times W_oᵀ r that is near to x, from the last r.

    The mask is the best one for the last r, the new r the best one for that mask; then the mask for
    that r. The length is fixed, else 0 would be everywhere.

    Args:
        x: shape (victims, m, runs).
        r: shape (victims, runs, q).
        directions: shape (victims, m, q).
        squares: their outer squares, shape (victims, m, q²).
        widths: how many of the q are a victim's own, shape (victims,).

    Returns:
        The vector, as x, and its r.
    """
    q = directions.shape[2]
    on = _mask(x, directions @ r.mT)
    normal = (on.mT.to(x.dtype) @ squares).reshape(*r.shape, q)
    trace = normal.diagonal(dim1=2, dim2=3).sum(2) / widths[:, None]
    ridge = torch.eye(q, dtype=x.dtype, device=x.device) * (RIDGE * trace + TINY)[..., None, None]
    r = torch.linalg.solve(normal + ridge, (on * x).mT @ directions)
    r = r * _to_length(directions @ r.mT, dim=1).mT
    s = directions @ r.mT
    return s * _mask(x, s), r


def polish(near: Tensor, space: Space) -> tuple[Tensor, Tensor]:
    """Return the vectors with both properties that given ones are near to, and how nearly.

    For its mask the r of least distance to the space, relative to its length, is an eigenvector;
    the mask follows from the vector's projection.

    Args:
        near: shape (m, n).

    Returns:
        Vectors, shape (m, n), and their relative distances to the space, shape (n,).
    """
    on = near != 0
    vector = near
    for _ in range(POLISHING):
        r = _least_distant(on, space)
        s = space.directions @ r.mT
        vector = s * on
        again = _mask(_projected(vector, space.basis), s)
        if torch.equal(again, on):
            break
        on = again
    gap = vector - _projected(vector, space.basis)
    return vector, gap.norm(dim=0) / vector.norm(dim=0).clamp_min(TINY)


def _least_distant(on: Tensor, space: Space) -> Tensor:
    """Return the r for which mask ⊙ W_oᵀ r is the least distant from the space, shape (n, q)."""
    masked = on.mT[:, :, None] * space.directions
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


def _mask(x: Tensor, s: Tensor) -> Tensor:
    """Return where x is nearer to s than to 0."""
    nearer: Tensor = x * s > s.square() / 2
    return nearer


def _to_length(x: Tensor, dim: int) -> Tensor:
    """Return by what to multiply vectors, along `dim`, for a mean square of ½."""
    factor: Tensor = sqrt(x.shape[dim] / 2) / x.norm(dim=dim, keepdim=True).clamp_min(TINY)
    return factor


def _outer_squares(directions: Tensor) -> Tensor:
    return (directions[..., :, None] * directions[..., None, :]).flatten(-2)


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

SAME = 1e-5
"""Two vectors are one from a cosine on that is less than 1 by this."""

LITTLE = 1e-3
"""Share of a random vector that is no longer one of its own."""

SPARE_COLUMNS = 4
"""More than individuals, of which to choose; where noise makes many, the nearest are taken."""

CHOICES = 50
"""Of columns, that are tried."""

POLISHING = 8
"""Times that mask and r follow from each other."""

RIDGE = 1e-5
"""Of the least squares in single precision, relative."""
