"""The columns that searches have found so far."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional


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


def nothing_found(basis: Tensor, width: int) -> FoundColumns:
    """Return no columns.

    Args:
        basis: of the space in which they would lie, shape (m, rank).
        width: q of their r.
    """
    none = basis.new_empty(len(basis), 0)
    return FoundColumns(none, none.bool(), basis.new_empty(0, width))
