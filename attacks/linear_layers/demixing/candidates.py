"""Candidates for the x of a batch's individuals, and the individuals that they make."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, islice

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.gradient_space import GradientSpace
from leakbench.attacks.linear_layers.demixing.recovered import (
    RecoveredIndividuals,
    recovered_from_columns,
    recovered_from_features,
)
from leakbench.attacks.linear_layers.head import Head


@dataclass
class Candidates:
    """Columns that may be the x of individuals.

    Attributes:
        head: the layer in whose space they lie, and those that follow.
        space: in which they lie.
        columns: of length 1, shape (m, n).
        distances: their relative distances from the space, shape (n,).
        features: h of each, if the search knows them, shape (n, d).
        individuals: that the best of them make, once there are as many as the space's rank.
    """

    head: Head
    space: GradientSpace
    columns: Tensor = field(init=False)
    distances: Tensor = field(init=False)
    features: Tensor = field(init=False)
    individuals: RecoveredIndividuals | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        basis = self.space.basis
        self.columns, self.distances = basis.new_empty(len(basis), 0), basis.new_empty(0)
        self.features = basis.new_empty(0, len(self.space.rows) - 1)
        self._best: Tensor | None = None
        self._most = 0

    def discard_uncertain(self) -> None:
        """Drop all columns but those of the best individuals that are certain."""
        kept = torch.zeros_like(self.distances, dtype=torch.bool)
        if self._best is not None and self.individuals is not None:
            kept = self._same_as(self._best[:, self.individuals.certain])
        self._keep(kept.nonzero().flatten())

    def __len__(self) -> int:
        return len(self.distances)

    @property
    def done(self) -> bool:
        """Whether all individuals are certain."""
        return self.individuals is not None and bool(self.individuals.certain.all())

    @property
    def score(self) -> tuple[int, tuple[int, int]]:
        """How far the search has come: the most columns, and the score of the best individuals."""
        return self._most, (0, 0) if self.individuals is None else self.individuals.score

    @property
    def best(self) -> RecoveredIndividuals:
        """The individuals that the candidates make so far."""
        each = [] if self.individuals is None else [self.individuals]
        if len(self.features):
            each.append(recovered_from_features(self.head, self.space, self.features))
        if not each:
            each.append(recovered_from_columns(self.head, self.space, next(self.choices())))
        return max(each, key=lambda individuals: individuals.score).in_order()

    def add(
        self,
        columns: Tensor,
        distances: Tensor,
        tolerances: Tensor,
        features: Tensor | None = None,
    ) -> None:
        """Take columns that are new, or nearer than the same ones were.

        Args:
            columns: shape (m, n).
            distances: from the space, shape (n,).
            tolerances: up to which distances columns are taken, which makes columns that differ by
                about that the same, shape (n,).
            features: h of their individuals, shape (n, d), if known.
        """
        changed = False
        for place, column in enumerate(functional.normalize(columns, dim=0).unbind(1)):
            apart = max(SAME, float(4 * tolerances[place].square()))
            same = (self.columns.mT @ column).abs() > 1 - apart
            if (self.distances[same] <= distances[place]).any():
                continue
            changed = True
            self._keep(~same)
            self.columns = torch.cat([self.columns, column[:, None]], dim=1)
            self.distances = torch.cat([self.distances, distances[place, None]])
            if features is not None:
                self.features = torch.cat([self.features, features[place, None]])
        self._keep(self.distances.argsort()[: 2 * self.space.rank + SPARE_COLUMNS])
        self._most = max(self._most, min(len(self), self.space.rank))
        if changed and len(self) >= self.space.rank:
            self._choose()

    def _same_as(self, columns: Tensor) -> Tensor:
        """Return which columns are among others, of length 1 too, shape (n,)."""
        if not columns.shape[1]:
            return torch.zeros_like(self.distances, dtype=torch.bool)
        same: Tensor = (self.columns.mT @ columns).abs().amax(1) > 1 - SAME
        return same

    def _keep(self, which: Tensor) -> None:
        self.columns, self.distances = self.columns[:, which], self.distances[which]
        if len(self.features):
            self.features = self.features[which]

    def choices(self) -> Iterator[Tensor]:
        """Yield sets of as many columns as the space's rank, or all, those nearest to it first.

        There may be more columns than individuals: of three individuals, two of which differ in few
        units, mask 1 + mask 2 − mask 3 may be a mask too. Only the right set makes individuals that
        are certain.
        """
        order, count = self.distances.argsort(), self.space.rank
        few = len(order) <= count + SPARE_COLUMNS
        choices = combinations(order.tolist(), min(count, len(order)))
        for chosen in islice(choices, CHOICES if few else 1):
            yield self.columns[:, list(chosen)]

    def _choose(self) -> None:
        """Keep the best individuals that columns make, if they are better than those before."""
        for columns in self.choices():
            individuals = recovered_from_columns(self.head, self.space, columns)
            if self.individuals is None or individuals.score > self.individuals.score:
                self.individuals, self._best = individuals, columns
            if self.done:
                break


SAME = 1e-5
"""Difference of the cosine from 1 up to which two vectors are the same."""

SPARE_COLUMNS = 4
"""Columns beyond the rank among which to choose; where noise makes more, the nearest count."""

CHOICES = 50
"""Sets of columns that are tried."""
