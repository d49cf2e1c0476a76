"""A layer's gradient as far as the server observes it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ObservedGradient:
    """The gradient of [W, b] of a layer, completed where entries were withheld.

    Attributes:
        gradient: shape (m, d + 1); zeros where it is unknown.
        rows: which rows are known, shape (m,).
        columns: which of the features' columns are known, shape (d,).
        misfit: root mean square difference between entries that were sent and those of the
            completed gradient.
    """

    gradient: Tensor
    rows: Tensor
    columns: Tensor
    misfit: float = 0.0

    @classmethod
    def whole(cls, gradient: Tensor) -> ObservedGradient:
        """Return a gradient of which nothing was withheld, shape (m, d + 1)."""
        known = torch.ones_like(gradient, dtype=torch.bool)
        return cls(gradient, known[:, 0], known[0, :-1])
