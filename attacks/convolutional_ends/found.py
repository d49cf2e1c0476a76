"""The columns that searches have found so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Column:
    """A mask that is in the space, and its x.

    Attributes:
        vector: of length 1, shape (m,).
        active: its mask, shape (m,).
        residual: its r, up to a factor, shape (q,).
    """

    vector: Tensor
    active: Tensor
    residual: Tensor


@dataclass
class FoundColumns:
    """Masks that are in the space, and their x.

    Attributes:
        vectors: of length 1 and independent, shape (m, n).
        active: their masks, shape (m, n).
        residuals: their r, up to factors, shape (n, q).
        spare: others, which are in the span of these, or of few channels.
    """

    vectors: Tensor
    active: Tensor
    residuals: Tensor
    _span: Tensor
    spare: list[Column] = field(default_factory=list)
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

    def add(
        self,
        vectors: Tensor,
        active: Tensor,
        residuals: Tensor,
        same: Tensor | float = 0.0,
        spare: Tensor | bool = False,
    ) -> None:
        """Take vectors and masks (m, n), and r (n, q).

        Args:
            same: sine of the angle to the span of those that are known up to which a vector is in
                it, shape (n,).
            spare: which are not to be among the columns yet, shape (n,).
        """
        same = torch.as_tensor(same).expand(active.shape[1])
        spare = torch.as_tensor(spare).expand(active.shape[1])
        vectors = functional.normalize(vectors, dim=0)
        for number, mask in enumerate(active.mT.cpu().numpy()):
            self._known.add(mask.tobytes())
            column = Column(vectors[:, number], active[:, number], residuals[number])
            left = self._left(column.vector)
            if not spare[number] and float(left.norm()) > float(same[number]):
                self._append(column, left)
            elif not self._is_known(column.vector, same[number]):
                self.spare.append(column)

    def complete(self, wanted: int) -> None:
        """Make columns of spare ones that are independent, until there are so many."""
        for column in self.spare:
            left = self._left(column.vector)
            if len(self) < wanted and float(left.norm()) > INDEPENDENT:
                self._append(column, left)

    def replace(self, place: int, column: Column) -> None:
        """Put a column that depends on the others in the place of one of them, which is spare."""
        old = Column(self.vectors[:, place], self.active[:, place], self.residuals[place])
        self.spare.append(old)
        self.vectors, self.active = self.vectors.clone(), self.active.clone()
        self.residuals = self.residuals.clone()
        self.vectors[:, place], self.active[:, place] = column.vector, column.active
        self.residuals[place] = column.residual

    def _append(self, column: Column, left: Tensor) -> None:
        self._span = torch.cat([self._span, functional.normalize(left, dim=0)[:, None]], dim=1)
        self.vectors = torch.cat([self.vectors, column.vector[:, None]], dim=1)
        self.active = torch.cat([self.active, column.active[:, None]], dim=1)
        self.residuals = torch.cat([self.residuals, column.residual[None]])

    def _left(self, vector: Tensor) -> Tensor:
        """Return the part of a vector (m,) that is not in the span of the columns."""
        for _ in range(2):
            # Once more, for what rounding left.
            vector = vector - self._span @ (self._span.mT @ vector)
        return vector

    def _is_known(self, vector: Tensor, same: Tensor) -> bool:
        """Whether a vector (m,) is one that is known, up to an angle's sine."""
        known = torch.cat([self.vectors, *(each.vector[:, None] for each in self.spare)], dim=1)
        away = (vector[:, None] - known * (known.mT @ vector)).norm(dim=0)
        return bool((away < same).any())


def nothing_found(basis: Tensor, width: int) -> FoundColumns:
    """Return no columns.

    Args:
        basis: of the space in which they would lie, shape (m, rank).
        width: q of their r.
    """
    none = basis.new_empty(len(basis), 0)
    return FoundColumns(none, none.bool(), basis.new_empty(0, width), none)


INDEPENDENT = 0.01
"""Sine of the angle to a span below which a vector is taken to be in it."""
