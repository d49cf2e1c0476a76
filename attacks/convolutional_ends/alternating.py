"""Search for masks in a column space alone, by alternating projections.

A vector is projected onto the space and replaced by the masked W_oᵀ r that is nearest, alternately,
from random starts, until its mask stays. Where it lies in the space then, it is the x of a
position. Nothing of z is used: behind a shortcut it is not known.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leakbench.attacks.convolutional_ends.found import FoundColumns
from leakbench.attacks.convolutional_ends.masked_vectors import (
    TINY,
    Sought,
    nearest_coefficients,
    take,
)


class AlternatingProjections:
    """Runs side by side, all from new starts in each volley; tensors have shape (m, runs).

    Args:
        sought: what is searched for.
        found: takes what is found; every other start is orthogonal to it.
        runs: of a volley.
        seed: of the starts.
    """

    def __init__(self, sought: Sought, found: FoundColumns, runs: int, seed: int) -> None:
        self.sought, self.found, self.runs = sought, found, runs
        self.basis, self.directions = sought.basis.float(), sought.directions.float()
        self.activation = sought.activation.to(self.basis)
        self.generator = torch.Generator().manual_seed(seed)

    def search(self, wanted: int, volleys: int) -> None:
        """Search until so many columns are found, or few of those that are missing in a volley."""
        for _ in range(volleys):
            missing = wanted - len(self.found)
            if missing <= 0 or self._volley() < missing / FRUITFUL:
                break

    def _volley(self) -> int:
        """Run once; return how many are found that were not known."""
        x, r, keeps_r = self._starts()
        # Half of the channels: about as many as in masks.
        mask = x * (self.directions @ r.mT) > 0
        for _ in range(LONGEST):
            vector = self.activation.derivative(mask) * (self.directions @ r.mT)
            x = self.basis @ (self.basis.mT @ vector)
            if r.shape[1] > 1:
                fitted = nearest_coefficients(self.activation.derivative(mask), self.directions, x)
                r = torch.where(keeps_r, r, fitted)
            else:
                size = (x * vector).sum(0) / vector.square().sum(0).clamp_min(TINY)
                x = x / torch.where(size == 0, 1.0, size)
            before, mask = mask, self.activation.nearer(x, self.directions @ r.mT)
            changed = (before != mask).any(0)
            if int(changed.sum()) <= self.runs // FEW:
                break
        vector = self.activation.derivative(mask) * (self.directions @ r.mT)
        inside = self.basis @ (self.basis.mT @ vector)
        before_volley = len(self.found)
        take(mask, (vector - inside).norm(dim=0), vector.norm(dim=0), self.sought, self.found)
        return len(self.found) - before_volley

    def _starts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return x, shape (m, runs), r, shape (runs, q), and which runs keep it, (runs, 1)."""
        draw, width = self.generator, self.directions.shape[1]
        drawn = torch.randn(self.basis.shape[1], self.runs, generator=draw)
        if 0 < len(self.found) < len(drawn):
            known = torch.linalg.qr(self.basis.mT @ self.found.vectors.float())[0]
            drawn[:, ::2] -= known @ (known.mT @ drawn[:, ::2])
        x = self.basis @ drawn
        # As long as if every channel were active.
        x = x * x.shape[0] ** 0.5 / x.norm(dim=0).clamp_min(TINY)
        keeps_r = torch.zeros(self.runs, 1, dtype=torch.bool)
        if width == 1:
            return x, x.new_ones(self.runs, 1), keeps_r
        chosen = torch.randint(len(self.sought.residuals), (self.runs,), generator=draw)
        r = self.sought.residuals[chosen].to(x)
        if len(self.found):
            # The other positions of an individual have the r of one that is found.
            some = torch.randint(len(self.found), (self.runs,), generator=draw)
            keeps_r = torch.rand(self.runs, 1, generator=draw) < KEPT
            r = torch.where(keeps_r, self.found.residuals[some].to(x), r)
        r = r * (x.shape[0] ** 0.5 / (self.directions @ r.mT).norm(dim=0).clamp_min(TINY))[:, None]
        return x, r, keeps_r


KEPT = 0.75
"""Share of runs that keep the r of a position that is found, where there is one."""

FEW = 16
"""Part of the runs, as its inverse, whose masks may still change at the end of a volley."""

FRUITFUL = 8
"""Part of the columns that are missing, as its inverse, that a volley must find to be followed."""

LONGEST = 60
"""Iterations of a run; most end after twenty."""
