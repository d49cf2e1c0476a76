"""The first layer's gradient as far as it is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Sent:
    """The first layer's gradient, completed.

    Attributes:
        gradient: shape (m, d + 1); zeros where nothing is known.
        rows: which are known, shape (m,).
        columns: of the features, which are known, shape (d,).
        misfit: by how much entries that were sent differ from those of a completed gradient, root
            mean square.
    """

    gradient: Tensor
    rows: Tensor
    columns: Tensor
    misfit: float = 0.0

    @classmethod
    def whole(cls, gradient: Tensor) -> Sent:
        """Return a gradient of which nothing was withheld, shape (m, d + 1)."""
        known = torch.ones_like(gradient, dtype=torch.bool)
        return cls(gradient, known[:, 0], known[0, :-1])
