"""Search for individuals one after the other, by Newton's method in the gradient's row space.

The gradient of the first layer is G = Σ_i x_i [h_i, 1]ᵀ = U S Vᵀ. So [h_i, 1] = V a_i and
x_i = U c_i with few unknowns a_i each, and who has a_i and the label y makes x(a_i, y) by the
layers that follow. Wanted are a with x(a, y) in the span of U: m − rank equations for rank − 1
unknowns, solved by Levenberg's and Marquardt's method from many individuals of D_aux. A kink is
softened at first: the softened problem has few other minima.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.effort import Effort
from leakbench.attacks.linear_layers.demixing.found import Found
from leakbench.attacks.linear_layers.demixing.levenberg_marquardt import least_squares
from leakbench.attacks.linear_layers.demixing.masked_space import MaskedSpace
from leakbench.attacks.linear_layers.demixing.mixture import BLUR, SOLVED, TINY, Others, Space
from leakbench.attacks.linear_layers.demixing.reflections import PROMISING, harvest, refine
from leakbench.attacks.linear_layers.demixing.remaining import remaining_after
from leakbench.attacks.linear_layers.head import Head


@dataclass(frozen=True)
class Newton:
    """The search in one victim's space.

    Attributes:
        head: from the layer on whose gradient is given.
        space: of that.
        others: of D_aux, from whom runs start.
        counts: of each label in the batch, about; above 0, shape (K,).
        runs: side by side.
    """

    head: Head
    space: Space
    others: Others
    counts: Tensor
    runs: int

    def search(
        self, found: Found, effort: Effort, seed: int, progress: Callable[[float], None]
    ) -> None:
        """Search until all are certain, or for as long as the effort says."""
        draw = torch.Generator().manual_seed(seed)
        start = functional.pad(self.others.features.double(), (0, 1), value=1.0) @ self.space.rows
        unsuccessful = 0
        for number in range(effort.rounds):
            if found.done or unsuccessful == effort.patience:
                break
            progress(number / effort.rounds)
            if len(found) >= self.space.rank:
                # They do not fit together: somebody among them is nobody.
                found.forget()
            drawn = torch.randint(len(self.others), (self.runs,), generator=draw)
            drawn = drawn.to(start.device)
            softness = torch.rand(self.runs, 1, generator=draw, dtype=torch.float64)
            labels = torch.multinomial(self.counts.cpu(), self.runs, True, generator=draw)
            new = self._round(found, start[drawn], labels.to(start.device), softness.to(start))
            unsuccessful = 0 if new else unsuccessful + 1

    def _round(self, found: Found, starts: Tensor, labels: Tensor, softness: Tensor) -> bool:
        """Run from some starts, and say whether anybody new is found.

        Args:
            starts: a of individuals of D_aux, shape (runs, rank).
            labels: with which every other run begins, shape (runs,).
            softness: by which kinks are softened more or less, in [0, 1], shape (runs, 1).
        """
        remaining = remaining_after(self.space, found.columns)
        t = (starts - remaining.origin) @ remaining.directions.mT
        layer = self.head.first.extended() @ self.space.rows
        z0, tangents = layer @ remaining.origin, layer @ remaining.directions.mT
        for stage, (sharpness, iterations) in enumerate(self._stages(softness)):
            z = z0 + t @ tangents.mT
            nearest = self._labels(z, sharpness)
            if stage == 0:
                nearest[::2] = labels[::2]
            targets = functional.one_hot(nearest, self.head.classes).to(z)
            if t.shape[1]:
                equations = self._equations(z0, tangents, targets, sharpness)
                t = least_squares(equations, t, iterations)
        reached = found.reached
        z = z0 + t @ tangents.mT
        if isinstance(self.space, MaskedSpace):
            harvest((z > 0).mT, self.space, found)
            refine(self.space, found)
        else:
            self._take(remaining.origin + t @ remaining.directions, targets, found)
        return found.done or found.reached > reached

    def _stages(self, softness: Tensor) -> list[tuple[Tensor | None, int]]:
        """Return the sharpness of kinks, shape (runs, 1), and iterations, one stage after another.

        Runs begin at different softness: what is too soft has one minimum, where all would end.
        """
        if not isinstance(self.space, MaskedSpace):
            return [(None, ITERATIONS)]
        first = SOFTEST**softness / self.others.z.std()
        return [(first * SHARPENING**stage, count) for stage, count in enumerate(STAGES)]

    def _labels(self, z: Tensor, sharpness: Tensor | None) -> Tensor:
        """Return the labels with which x is nearest to the space, shape (runs,)."""
        classes = torch.eye(self.head.classes, dtype=z.dtype, device=z.device)
        every = None if sharpness is None else sharpness[:, None]
        x = self.head.errors(z[:, None], classes, every) * self.space.scale
        return self.space.distance(x).argmin(1)

    def _equations(
        self, z0: Tensor, tangents: Tensor, targets: Tensor, sharpness: Tensor | None
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return t → what of x / ‖x‖ is outside the space, (runs, m), and its derivatives."""
        basis, scale = self.space.basis, self.space.scale

        def equations(t: Tensor) -> tuple[Tensor, Tensor]:
            z = z0 + t @ tangents.mT
            x, dx = self.head.linearised(z, tangents, targets, sharpness)
            x, dx = x * scale, dx * scale[:, None]
            length = x.norm(dim=1, keepdim=True).clamp_min(TINY)
            x, dx = x / length, dx / length[..., None]
            outside = x - (x @ basis) @ basis.mT
            turned = dx - basis @ (basis.mT @ dx)
            return outside, turned - outside[..., None] * (x[:, None] @ dx)

        return equations

    def _take(self, a: Tensor, targets: Tensor, found: Found) -> None:
        """Take those whose x lies in the space."""
        features = (a @ self.space.rows.mT)[:, :-1]
        x = self.head.errors(self.head.first.forward(features), targets) * self.space.scale
        gaps = self.space.distance(x)
        tolerances = (SOLVED + BLUR * self.space.blur(x.mT)).clamp_max(PROMISING)
        right = gaps < tolerances
        found.add(x[right].mT, gaps[right], tolerances[right], features[right])


STAGES = (15, 10, 10, 8, 8)
"""Iterations at each sharpness."""

SHARPENING = 3.0
"""By which each stage is sharper than the last."""

SOFTEST = 30.0
"""Runs begin at a sharpness up to this many times the softest, which is 1 / std of z on D_aux."""

ITERATIONS = 40
"""Where there is no kink."""
