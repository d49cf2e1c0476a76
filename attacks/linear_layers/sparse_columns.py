"""The individuals' columns of a ReLU layer's gradient, found because they are sparse.

The gradient of the layer's [W, b] is G = X H over the B individuals: x_i, the i-th column of X, is
zero where individual i does not activate a unit, and the i-th row of H is [h_i, 1]. With G = U S Vᵀ
of rank b, X = U Q and H = Q⁻¹ S Vᵀ for some invertible Q. Attacks propose columns q of Q, and the
zeros of U q tell whether it is one: a wrong one vanishes at no unit besides those it was made from.

After Dimitrov, Baader, Müller, Vechev 2024 (SPEAR), Algorithms 1 and 2. Rows of G are scaled to
unit length throughout, so that rounding is alike in all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from leakbench.attacks.linear_layers.demixing.gradient_space import (
    TINY,
    GradientSpace,
    precision_of,
    space_of,
)
from leakbench.attacks.linear_layers.demixing.observed_gradient import ObservedGradient
from leakbench.attacks.linear_layers.demixing.recovered import CERTAIN, UNSURE
from leakbench.attacks.linear_layers.head import Head


@dataclass(frozen=True)
class Columns:
    """Candidates for columns of Q.

    Attributes:
        vectors: of unit length, up to the sign, shape (n, b).
        zeros: at which units U q vanishes but for rounding, shape (n, m).
    """

    vectors: Tensor
    zeros: Tensor

    def __len__(self) -> int:
        return len(self.vectors)

    def __getitem__(self, rows: Tensor | slice) -> Columns:
        return Columns(self.vectors[rows], self.zeros[rows])


@dataclass(frozen=True)
class Separation:
    """Individuals that fit together.

    Attributes:
        features: h, shape (b, d).
        score: share of units and individuals at which features and columns agree whether the unit
            is active.
        exact: whether the score is 1, noise moves each feature by less than 1 %, and no other
            columns have the same zeros.
    """

    features: Tensor
    score: float
    exact: bool


class SparseColumns:
    """The search in one victim's gradient.

    Args:
        head: whose first layer has a ReLU after it.
        update: finite.
        individuals: B.
    """

    def __init__(self, head: Head, update: Mapping[str, Tensor], individuals: int) -> None:
        gradient = head.first.gradient(update)
        length = gradient.norm(dim=1)
        scale = torch.where(length > 0, 1 / length, 0.0)
        self.space: GradientSpace = space_of(
            ObservedGradient.whole(gradient), individuals, scale, precision_of(head, update)
        )
        self.rank = self.space.rank
        self._live = (length > 0).nonzero().flatten()
        self._rounding = max(self.space.noise, precision_of(head, update))
        self._rows = self.space.values[:, None] * self.space.rows.mT
        # S Vᵀ [W, b]ᵀ: what makes z.
        self._layer = self._rows @ head.first.extended().mT

    @property
    def tells_apart(self) -> bool:
        """Whether the individuals stand out of the noise, and units are left to check a kernel."""
        noise_is_low = self.space.noise < CERTAIN * float(self.space.values[-1])
        return noise_is_low and len(self._live) >= self.rank - 1 + SPARE_ZEROS

    def search(
        self,
        propose: Callable[[int], Tensor],
        proposals: int,
        at_once: int,
        progress: Callable[[float], None],
    ) -> Separation | None:
        """Ask for candidates until a batch fits or so many were proposed.

        Args:
            propose: returns n vectors or fewer, nearly of unit length, shape (≤ n, b).
            proposals: n of all calls together, at most.
            at_once: n of one call.

        Returns:
            The batch that fits best; None if there are not enough independent candidates.
        """
        if self.rank == 1:
            return self.best(self.settle(torch.ones_like(self.space.values[None])), exchange=False)
        at_once = min(at_once, FEW * 2**self.rank)
        candidates = self.settle(self.space.basis[:0])
        best = None
        drawn, exchanged_at = 0, 0
        while drawn < proposals:
            count = min(at_once, proposals - drawn)
            drawn += count
            fresh = self.settle(self._sparse(propose(count)))
            progress(drawn / proposals)
            candidates = _distinct(_together(candidates, fresh))[:MOST]
            # Exchanges take long: the more draws they have failed on, the more come before others.
            exchange = drawn >= min(AGAIN * exchanged_at, proposals)
            if exchange:
                exchanged_at = drawn
            elif not len(fresh):
                continue
            best = _better(best, self.best(candidates, exchange))
            if best is not None and best.exact:
                break
        return best

    def sampled(self, count: int, generator: torch.Generator) -> Tensor:
        """Return the kernels of samples of b − 1 rows of U, shape (≤ count, b).

        Of rows whose units an individual does not activate, if they have rank b − 1, the kernel is
        its column of Q. About one sample of 2ᵇ is such, where half of the units are active.

        Args:
            generator: a CPU generator.
        """
        return self.kernels(self.draw(count, generator))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return samples of b − 1 different units that at least one individual activates.

        Returns:
            Shape (count, b − 1).
        """
        chance = torch.rand(count, len(self._live), generator=generator)
        places = chance.topk(self.rank - 1, dim=1).indices
        units: Tensor = self._live[places.to(self._live.device)]
        return units

    def kernels(self, units: Tensor) -> Tensor:
        """Return of each selection of units, shape (n, b − 1), the kernel of those rows of U.

        Selections of lower rank have none that is unique; they are left out.

        Returns:
            Unit vectors, shape (≤ n, b).
        """
        rows = self.space.basis[units]
        # One more equation, the same for all, in place of a length.
        wanted = rows.new_zeros(self.rank)
        wanted[-1] = 1.0
        along = torch.ones_like(wanted).expand(len(rows), 1, -1)
        system = torch.cat([rows, along / self.rank**0.5], dim=1)
        factors, pivots, _ = torch.linalg.lu_factor_ex(system)
        steps = factors.diagonal(dim1=1, dim2=2).abs()
        full = steps.amin(1) > SINGULAR * steps.amax(1)
        factors, pivots = factors[full], pivots[full]
        found = torch.linalg.lu_solve(factors, pivots, wanted.expand(len(factors), -1)[..., None])
        return torch.nn.functional.normalize(found.squeeze(2), dim=1)

    def zeros(self, vectors: Tensor, tolerance: float = 1.0) -> Tensor:
        """Return where U q, of vectors (n, b), vanishes but for rounding, shape (n, m).

        Args:
            tolerance: how often the rounding of an exact q may occur.
        """
        # A row of U is off by e V S⁻¹ where one of G is off by e.
        off = self._rounding * (vectors / self.space.values).norm(dim=1, keepdim=True)
        vanish: Tensor = (vectors @ self.space.basis.mT).abs() <= tolerance * off
        return vanish

    def settle(self, vectors: Tensor) -> Columns:
        """Return the sparse ones of vectors (n, b), fitted to all their zeros, without repeats.

        Candidates come with rounding: sampled rows, for one, may be nearly dependent.
        """
        zeros = self.zeros(vectors, COARSE)
        for _ in range(FITS):
            zeros = torch.unique(zeros[self._enough(zeros)], dim=0)
            zeros = zeros[zeros.sum(1).argsort(descending=True, stable=True)][:MOST]
            vectors = self._fit(zeros)
            zeros = self.zeros(vectors)
        sparse = self._enough(zeros)
        return _distinct(Columns(vectors[sparse], zeros[sparse]))

    def best(self, candidates: Columns, exchange: bool) -> Separation | None:
        """Return the b candidates that fit together best, or None without so many independent.

        The sparsest are it, or what exchanging one at a time makes of them while the score rises.
        """
        chosen = _independent(candidates, self.rank)
        if len(chosen) < self.rank:
            return None
        score = float(self.scores(candidates, chosen[None]))
        rises = exchange
        while rises and score < 1:
            rises = False
            for place in range(self.rank):
                exchanged = _exchanges(chosen, place, len(candidates))
                scores = self.scores(candidates, exchanged)
                if len(scores) and float(scores.max()) > score:
                    score, chosen = float(scores.max()), exchanged[scores.argmax()]
                    rises = True
        return self._batch(candidates[chosen], score)

    def scores(self, candidates: Columns, chosen: Tensor) -> Tensor:
        """Return the scores of choices of candidates, shape (n, b) → (n,).

        Where z is as small as rounding it has either sign.
        """
        inverse, singular = torch.linalg.inv_ex(candidates.vectors[chosen].mT)
        factor = inverse @ self._rows[:, -1:]
        z = inverse @ self._layer / torch.where(factor == 0, 1.0, factor)
        unsure = z.abs() <= UNSURE * z.abs().mean(2, keepdim=True)
        agree = unsure | ((z > 0) != candidates.zeros[chosen])
        share: Tensor = agree.double().mean((1, 2))
        return share.where(singular == 0, 0.0)

    def _batch(self, columns: Columns, score: float) -> Separation:
        inverse = torch.linalg.inv(columns.vectors.mT)
        extended = inverse @ self._rows
        factor = extended[:, -1:]
        moved = self.space.noise * inverse.norm(dim=1) / extended.norm(dim=1).clamp_min(TINY)
        return Separation(
            features=extended[:, :-1] / torch.where(factor == 0, 1.0, factor),
            score=score,
            exact=score == 1 and bool((moved < CERTAIN).all()) and self._only_ones(columns),
        )

    def _only_ones(self, columns: Columns) -> bool:
        """Whether no other vectors vanish where columns do, as far as rounding shows.

        Where all units that one individual activates are active for another too, any multiple of
        the one's column may be added to the other's, and some have a score of 1.
        """
        if self.rank == 1:
            return True
        spread = torch.linalg.eigvalsh(self._squares(columns.zeros))[:, 1].clamp_min(0).sqrt()
        off = self._rounding * (columns.vectors / self.space.values).norm(dim=1)
        return bool((off < CERTAIN**2 * spread).all())

    def _sparse(self, vectors: Tensor) -> Tensor:
        return vectors[self._enough(self.zeros(vectors, COARSE))]

    def _enough(self, zeros: Tensor) -> Tensor:
        """Whether more units vanish than for any vector; always for a single individual."""
        if self.rank == 1:
            return torch.ones_like(zeros[:, 0])
        return zeros[:, self._live].sum(1) >= self.rank - 1 + SPARE_ZEROS

    def _fit(self, zeros: Tensor) -> Tensor:
        """Return the vectors that U maps nearest to zero at such units, shape (n, m) → (n, b)."""
        nearest: Tensor = torch.linalg.eigh(self._squares(zeros)).eigenvectors[:, :, 0]
        return nearest

    def _squares(self, zeros: Tensor) -> Tensor:
        """Return the products of U's columns at such units, shape (n, m) → (n, b, b)."""
        basis = self.space.basis
        return torch.einsum("mi,nm,mj->nij", basis, zeros.to(basis), basis)


def _distinct(columns: Columns) -> Columns:
    """Return those that differ in more than sign and rounding, the sparsest first.

    Of those that do not, the sparsest is the one that is fitted to all its zeros and no others.
    """
    order = columns.zeros.sum(1).argsort(descending=True, stable=True)
    vectors = columns.vectors[order]
    alike = (vectors @ vectors.mT).abs() > SAME
    return columns[order[~alike.triu(1).any(0)]]


def _together(some: Columns, others: Columns) -> Columns:
    vectors = torch.cat([some.vectors, others.vectors])
    return Columns(vectors, torch.cat([some.zeros, others.zeros]))


def _better(some: Separation | None, other: Separation | None) -> Separation | None:
    """Return the one that is exact, or else of the higher score."""
    batches = [batch for batch in (some, other) if batch is not None]
    return max(batches, key=lambda batch: (batch.exact, batch.score), default=None)


def _independent(candidates: Columns, count: int) -> Tensor:
    """Return the first so many, or fewer, that are linearly independent, shape (≤ count,)."""
    left = candidates.vectors
    chosen: list[int] = []
    for row in range(len(left)):
        length = left[row].norm()
        if len(chosen) < count and length > INDEPENDENT:
            direction = left[row] / length
            left = left - (left @ direction)[:, None] * direction
            chosen.append(row)
    return torch.tensor(chosen, dtype=torch.long, device=left.device)


def _exchanges(chosen: Tensor, place: int, count: int) -> Tensor:
    """Return all choices that differ from one, shape (b,), in that place; shape (n, b)."""
    others = torch.ones(count, dtype=torch.bool, device=chosen.device)
    others[chosen] = False
    fresh = others.nonzero().flatten()
    exchanged = chosen.repeat(len(fresh), 1)
    exchanged[:, place] = fresh
    return exchanged


SPARE_ZEROS = 3
"""Fewest units, besides the b − 1 at which some vector always vanishes, where a candidate does."""

FEW = 64
"""Proposals at once, at most, in multiples of 2ᵇ: a small batch is found in fewer."""

MOST = 512
"""Candidates that are kept. With two classes the difference of two columns vanishes wherever both
individuals have the same mask, at more units than either: many wrong candidates are as sparse."""

AGAIN = 4
"""Factor by which the proposals grow before exchanges are tried again."""

SINGULAR = 1e-8
"""Pivots smaller than this, relative to the largest, say that rows depend on each other."""

COARSE = 100.0
"""How often the rounding of a fitted kernel occurs in one of b − 1 rows."""

FITS = 2
"""How often a candidate is fitted to its zeros; from the second time on they are all its own."""

SAME = 1 - 1e-6
"""Cosine from which two candidates are the same."""

INDEPENDENT = 1e-6
"""Length below which the rest of a candidate after projection says that it depends on others."""
