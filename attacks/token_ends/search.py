"""Search for the tokens of a victim batch, by Newton's method in both spaces of a gradient.

The gradient of the MLP's first layer is G = Σ_i x_i [h_i, 1]ᵀ, x_i = φ′(W_1 h_i + b_1) ⊙ W_2ᵀ δ_i.
[h_i, 1] is in its row space and δ_i in the column space of the second layer's gradient: few
numbers each. Wanted are those for which x is in the column space of G, m − B equations for
2 B − 2 unknowns, solved by Levenberg's and Marquardt's method from tokens of D_aux. What is
found takes a dimension from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.convolutional_ends.masked_vectors import nearest_residuals
from leakbench.attacks.demixable_ends.calls import double
from leakbench.attacks.linear_layers.demixing.deflated_subspace import deflated_subspace
from leakbench.attacks.linear_layers.demixing.gradient_space import (
    TINY,
    GradientSpace,
    rank_of,
    space_of,
)
from leakbench.attacks.linear_layers.demixing.levenberg_marquardt import least_squares
from leakbench.attacks.linear_layers.demixing.observed_gradient import ObservedGradient
from leakbench.attacks.linear_layers.demixing.recovered import NOISE_MARGIN, SOLVED, SPARE_UNITS
from leakbench.attacks.token_ends.end import TokenEnd


@dataclass(frozen=True)
class TokenGradient:
    """One victim batch: its gradients at the MLP.

    Attributes:
        end: of the model.
        individuals: B.
        space: of the first layer's gradient, rows scaled.
        errors: Q of the space of the δ_i, orthonormal, shape (d, q).
        directions: W_2ᵀ Q, rows scaled, shape (m, q).
        second: gradient of the second layer's [W, b], shape (d, m + 1).
        output: gradient of the output layer's [W, b], shape (K, d + 1).
        precision: the unit of the last place of the update's numbers.
    """

    end: TokenEnd
    individuals: int
    space: GradientSpace
    errors: Tensor
    directions: Tensor
    second: Tensor
    output: Tensor
    precision: float

    @property
    def is_searchable(self) -> bool:
        """Whether there are clearly more equations than unknowns for one token."""
        unknown = 2 * self.space.rank + self.directions.shape[1] + SPARE_UNITS
        return unknown < self.space.units and bool((self.second != 0).any())

    @cached_property
    def entry_noise(self) -> float:
        """Standard deviation of the noise in an entry of the gradient, as far as it is seen."""
        space = self.space
        noise = space.gradient - (space.basis * space.values) @ space.rows.mT
        rows, columns = (size - space.rank for size in noise.shape)
        if rows > 0 and columns > 0:
            return float(noise.norm()) / sqrt(rows * columns)
        # Nothing is left in which noise is seen: it is rounding at least.
        return self.precision * float(space.gradient.square().mean().sqrt())

    def x(self, z: Tensor, c: Tensor) -> Tensor:
        """Return x, rows scaled, shape (n, m), for z (n, m) and coordinates of δ (n, q)."""
        return self.end.activation.derivative(z) * (c @ self.directions.mT)


def token_gradient(end: TokenEnd, update: Mapping[str, Tensor], individuals: int) -> TokenGradient:
    """Return the spaces of one victim batch.

    Args:
        update: finite.
        individuals: B.
    """
    own = (*end.first.names, *end.second.names, *end.output.names)
    precision = max(torch.finfo(update[name].dtype).eps for name in own)
    sent = {name: double(update[name]) for name in own}
    second = end.second.gradient(sent)
    outer, values, _ = torch.linalg.svd(second, full_matrices=False)
    errors = outer[:, : min(rank_of(values, precision), individuals)]
    directions = end.second.weight.mT @ errors
    length = directions.norm(dim=1)
    scale = 1 / length.clamp_min(LEAST_UNIT * length.median().clamp_min(TINY))
    observed = ObservedGradient.whole(end.first.gradient(sent))
    space = space_of(observed, individuals, scale, precision)
    return TokenGradient(
        end,
        individuals,
        space,
        errors,
        directions * scale[:, None],
        second,
        end.output.gradient(sent),
        precision,
    )


@dataclass(frozen=True)
class FoundTokens:
    """Tokens whose x are in the column space.

    Attributes:
        extended: [h, 1], shape (n, d + 1).
        x: rows scaled, in their true lengths, shape (n, m).
        deltas: δ / B, shape (n, d).
        distances: relative, of x from the space, shape (n,).
    """

    extended: Tensor
    x: Tensor
    deltas: Tensor
    distances: Tensor

    def __len__(self) -> int:
        return len(self.distances)


class TokenSearch:
    """Runs of Newton's method side by side.

    Args:
        gradient: of the victim batch.
        starts: h of tokens of D_aux, shape (n, d).
        runs: at once.
        seed: of the starts.
    """

    def __init__(self, gradient: TokenGradient, starts: Tensor, runs: int, seed: int) -> None:
        self.gradient, self.runs = gradient, runs
        space = gradient.space
        extended = functional.pad(starts, (0, 1), value=1.0)
        self.starts = extended @ space.rows
        self.layer = gradient.end.first.extended() @ space.rows
        self.generator = torch.Generator().manual_seed(seed)
        none = space.basis.new_empty(0)
        d = len(space.rows)
        self.found = FoundTokens(
            none.new_empty(0, d),
            none.new_empty(0, len(space.basis)),
            none.new_empty(0, d - 1),
            none,
        )

    def search(self, rounds: int, patience: int) -> FoundTokens:
        """Search until as many are found as the gradient has dimensions, or the budget is spent."""
        idle = 0
        for _ in range(rounds):
            if len(self.found) >= self.gradient.space.rank or idle >= patience:
                break
            idle = 0 if self._round() else idle + 1
        return self.found

    def _round(self) -> bool:
        """Run from some tokens of D_aux; return whether anyone new is found."""
        space, own = self.gradient.space, self.gradient
        subspace = deflated_subspace(space, self.found.x.mT)
        z0, tangents = self.layer @ subspace.origin, self.layer @ subspace.directions.mT
        chosen = torch.randint(len(self.starts), (self.runs,), generator=self.generator)
        t = (self.starts[chosen] - subspace.origin) @ subspace.directions.mT
        width = t.shape[1]
        derivative = own.end.activation.derivative(z0 + t @ tangents.mT)
        c = nearest_residuals(derivative.mT, own.directions, space.basis)
        unknown = width + c.shape[1]
        for count, iterations in self._stages(unknown):
            rows = torch.randperm(len(z0), generator=self.generator)[:count]
            equations = self._equations(z0[rows], tangents[rows], rows)
            both = least_squares(equations, torch.cat([t, c], dim=1), iterations)
            t, c = both[:, :width], functional.normalize(both[:, width:], dim=1)
            near = self._distances(z0 + t @ tangents.mT, c) < PROMISING
            if count < len(z0):
                t, c = t[near], c[near]
            if not len(t):
                return False
        return self._take(subspace.origin + t @ subspace.directions, c)

    def _stages(self, unknown: int) -> list[tuple[int, int]]:
        """Return numbers of equations, drawn at random, and iterations of each stage."""
        units = len(self.layer)
        few = self.gradient.space.rank + EQUATIONS * unknown
        polish = (units, POLISHING)
        return [(few, ITERATIONS), polish] if few < units else [(units, ITERATIONS)]

    def _equations(
        self, z0: Tensor, tangents: Tensor, rows: Tensor
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return (t, c) → the part of x / ‖x‖ outside the space, (runs, rows), and derivatives.

        Args:
            rows: units whose equations count.
        """
        activation, directions = self.gradient.end.activation, self.gradient.directions[rows]
        basis = torch.linalg.qr(self.gradient.space.basis[rows])[0]
        width = tangents.shape[1]

        def equations(unknown: Tensor) -> tuple[Tensor, Tensor]:
            t, c = unknown[:, :width], unknown[:, width:]
            z, back = z0 + t @ tangents.mT, c @ directions.mT
            derivative = activation.derivative(z)
            x = derivative * back
            moved = (activation.second_derivative(z, None) * back)[..., None] * tangents
            dx = torch.cat([moved, derivative[..., None] * directions], dim=2)
            length = x.norm(dim=1, keepdim=True).clamp_min(TINY)
            x, dx = x / length, dx / length[..., None]
            outside = x - (x @ basis) @ basis.mT
            turned = dx - basis @ (basis.mT @ dx)
            return outside, turned - outside[..., None] * (x[:, None] @ dx)

        return equations

    def _distances(self, z: Tensor, c: Tensor) -> Tensor:
        return self.gradient.space.distance(self.gradient.x(z, c))

    def _take(self, a: Tensor, c: Tensor) -> bool:
        """Take the runs whose x is in the space and new; return whether there are any."""
        own, space = self.gradient, self.gradient.space
        x = own.x(a @ self.layer.mT, c)
        distances = space.distance(x)
        allowed = SOLVED + NOISE_MARGIN * space.noise_sensitivity(x.mT)
        before = len(self.found)
        for run in distances.argsort().tolist():
            if not distances[run] < allowed[run].clamp_max(PROMISING):
                continue
            alike = functional.cosine_similarity(self.found.x, x[run, None], dim=1).abs()
            if len(self.found) and alike.max() > SAME:
                continue
            # With x = U f: aᵀ S⁻¹ f = 1, which tells the length and the sign.
            length = (a[run] / space.values) @ (space.basis.mT @ x[run])
            if length == 0 or len(self.found) == space.rank:
                continue
            every = self.found
            self.found = FoundTokens(
                torch.cat([every.extended, (a[run] @ space.rows.mT)[None]]),
                torch.cat([every.x, x[run, None] / length]),
                torch.cat([every.deltas, (own.errors @ c[run] / length)[None]]),
                torch.cat([every.distances, distances[run, None]]),
            )
        return len(self.found) > before


ITERATIONS = 40
"""Iterations of Newton's method from a start."""

POLISHING = 6
"""Iterations with all equations, of runs that are near."""

EQUATIONS = 4
"""Equations for each unknown, beyond those that the column space takes."""

PROMISING = 1e-2
"""Relative distance from the space from which a run is near."""

SAME = 1 - 1e-6
"""Cosine from which two x are the same."""

LEAST_UNIT = 0.1
"""Least length of a unit's direction, relative to the median, as which it is scaled."""
