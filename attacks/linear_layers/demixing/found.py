"""What a search has found in one space, and who it makes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, islice

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.mixture import (
    Demixed,
    Space,
    individuals_alone,
    individuals_of,
)
from leakbench.attacks.linear_layers.head import Head


@dataclass
class Found:
    """Columns that may be individuals' x.

    Attributes:
        head: from the layer on in whose space they lie.
        space: in which they lie.
        columns: of length 1, shape (m, n).
        gaps: their relative distances to the space, shape (n,).
        features: h of each, where the search knows them, shape (n, d).
        individuals: behind the best of them, once there are as many as the space has dimensions.
    """

    head: Head
    space: Space
    columns: Tensor = field(init=False)
    gaps: Tensor = field(init=False)
    features: Tensor = field(init=False)
    individuals: Demixed | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        basis = self.space.basis
        self.columns, self.gaps = basis.new_empty(len(basis), 0), basis.new_empty(0)
        self.features = basis.new_empty(0, len(self.space.rows) - 1)
        self._best: Tensor | None = None
        self._most = 0

    def forget(self) -> None:
        """Drop all columns but those of the best individuals who are certain."""
        kept = torch.zeros_like(self.gaps, dtype=torch.bool)
        if self._best is not None and self.individuals is not None:
            kept = self._same_as(self._best[:, self.individuals.certain])
        self._keep(kept.nonzero().flatten())

    def __len__(self) -> int:
        return len(self.gaps)

    @property
    def done(self) -> bool:
        """Whether all individuals are certain."""
        return self.individuals is not None and bool(self.individuals.certain.all())

    @property
    def reached(self) -> tuple[int, tuple[int, int]]:
        """How far the search has come: the most columns, and the worth of the best individuals."""
        return self._most, (0, 0) if self.individuals is None else self.individuals.worth

    @property
    def best(self) -> Demixed:
        """Who stands behind what has been found so far."""
        each = [] if self.individuals is None else [self.individuals]
        if len(self.features):
            each.append(individuals_alone(self.head, self.space, self.features))
        if not each:
            each.append(individuals_of(self.head, self.space, next(self.choices())))
        return max(each, key=lambda found: found.worth).in_order()

    def add(
        self, columns: Tensor, gaps: Tensor, tolerances: Tensor, features: Tensor | None = None
    ) -> None:
        """Take columns that are new, or nearer than the same ones were.

        Args:
            tolerances: distances at which columns are taken: they are the same within about that.
            features: of who has them, shape (n, d), if known.
        """
        changed = False
        for place, column in enumerate(functional.normalize(columns, dim=0).unbind(1)):
            gap = gaps[place]
            apart = max(SAME, float(4 * tolerances[place].square()))
            same = (self.columns.mT @ column).abs() > 1 - apart
            if (self.gaps[same] <= gap).any():
                continue
            changed = True
            self._keep(~same)
            self.columns = torch.cat([self.columns, column[:, None]], dim=1)
            self.gaps = torch.cat([self.gaps, gap[None]])
            if features is not None:
                self.features = torch.cat([self.features, features[place, None]])
        self._keep(self.gaps.argsort()[: 2 * self.space.rank + SPARE_COLUMNS])
        self._most = max(self._most, min(len(self), self.space.rank))
        if changed and len(self) >= self.space.rank:
            self._choose()

    def _same_as(self, columns: Tensor) -> Tensor:
        """Return which columns are among others, of length 1 too, shape (n,)."""
        if not columns.shape[1]:
            return torch.zeros_like(self.gaps, dtype=torch.bool)
        same: Tensor = (self.columns.mT @ columns).abs().amax(1) > 1 - SAME
        return same

    def _keep(self, which: Tensor) -> None:
        self.columns, self.gaps = self.columns[:, which], self.gaps[which]
        if len(self.features):
            self.features = self.features[which]

    def choices(self) -> Iterator[Tensor]:
        """Yield columns, as many as the space has dimensions or all, the nearest to it first.

        There may be more than individuals: of three, two of whom differ in few units, mask 1 +
        mask 2 − mask 3 may be a mask too. Only the right ones make individuals who are certain.
        """
        order, count = self.gaps.argsort(), self.space.rank
        few = len(order) <= count + SPARE_COLUMNS
        choices = combinations(order.tolist(), min(count, len(order)))
        for chosen in islice(choices, CHOICES if few else 1):
            yield self.columns[:, list(chosen)]

    def _choose(self) -> None:
        """Keep the best individuals that columns make, if they are better than those before."""
        for columns in self.choices():
            individuals = individuals_of(self.head, self.space, columns)
            if self.individuals is None or individuals.worth > self.individuals.worth:
                self.individuals, self._best = individuals, columns
            if self.done:
                break


SAME = 1e-5
"""Two vectors are one from a cosine on that is less than 1 by this."""

SPARE_COLUMNS = 4
"""More than individuals, of which to choose; where noise makes many, the nearest are taken."""

CHOICES = 50
"""Of columns, that are tried."""
