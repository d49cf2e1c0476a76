"""Search for individuals whose mask fits both spaces of a gradient, by relaxed reflections.

Before a hidden layer with a kink, an individual of the batch has an x in the column space of the
gradient and a z = W h + b in the space that its row space leaves. Unit by unit they belong
together: where z > 0, x is that of W_oᵀ r; elsewhere, it is that times the slope. So a run at
(z, x) is reflected at the spaces and at the pairs that belong together, alternately.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.deflated_subspace import deflated_subspace
from leakbench.attacks.linear_layers.demixing.gradient_space import TINY
from leakbench.attacks.linear_layers.demixing.masks import PROMISING, repair_masks, take_masks
from leakbench.attacks.linear_layers.demixing.problem import MaskedProblem
from leakbench.attacks.linear_layers.demixing.recovered import SPARE_UNITS
from leakbench.attacks.linear_layers.demixing.search_budget import SearchBudget
from leakbench.attacks.linear_layers.head import Head


class Reflections:
    """Runs of several victim batches side by side; tensors have shape (victims, …).

    A run is at z and x, shape (m,), and its last residual direction r, shape (q,). What a victim's
    runs do does not depend on the others: dimensions are padded with zeros to those of the widest.

    Args:
        problems: of the victim batches, whose candidates take what is found.
        runs: of each victim batch.
    """

    def __init__(self, problems: Sequence[MaskedProblem], runs: int) -> None:
        self.problems = problems
        self.slope = problems[0].space.slope
        self.generators = [torch.Generator().manual_seed(each.batch.seed) for each in problems]
        self.open = list(range(len(problems)))
        spaces = [problem.space for problem in problems]
        self.basis = _padded([space.basis.float() for space in spaces])
        self.directions = _padded([space.directions.float() for space in spaces])
        self.squares = (self.directions[..., :, None] * self.directions[..., None, :]).flatten(-2)
        widths = [space.directions.shape[1] for space in spaces]
        self.widths = torch.tensor(widths, device=self.basis.device)
        victims, units, width = self.directions.shape
        self.x = self.basis.new_zeros(victims, units, runs)
        self.z, self.r = torch.zeros_like(self.x), self.basis.new_zeros(victims, runs, width)
        self.origin = self.basis.new_zeros(victims, units, 1)
        self.z_basis = torch.zeros_like(self.basis)
        self.iterations_left = torch.zeros(victims, runs, dtype=torch.long, device=self.x.device)
        self.idle = [0] * victims
        for place in range(victims):
            self._deflate(place)

    def search(self, budget: SearchBudget, progress: Callable[[float], None]) -> None:
        """Search until all individuals are certain or the budget is spent."""
        done = 0.0
        for iteration in range(budget.reflections):
            self._restart()
            z, x, active = self._pairs()
            self.z = self.z + STEP * (self._project_z(2 * z - self.z) - z)
            self.x = self.x + STEP * (self._project_x(2 * x - self.x) - x)
            self.iterations_left -= 1
            if iteration % HARVEST_EVERY == 0:
                self._harvest(x, active)
                self._drop_finished(budget.reflection_patience)
                shares = [len(each.candidates) / each.space.rank for each in self.problems]
                done = max(done, sum(min(share, 1.0) for share in shares) / len(shares))
                progress(done)
                if not self.open:
                    break

    def _restart(self) -> None:
        """Start runs whose time is over, from individuals of D_aux.

        The length of a run is random, mostly short and rarely long, as no length is right for all
        (Luby, Sinclair, Zuckerman 1993, Optimal speedup of Las Vegas algorithms).
        """
        over = self.iterations_left <= 0
        for place in over.any(1).nonzero().flatten().tolist():
            rows = over[place].nonzero().flatten()
            victim = self.open[place]
            space, population = self.problems[victim].space, self.problems[victim].population
            generator, count = self.generators[victim], len(rows)
            doubled = torch.empty(count).geometric_(0.5, generator=generator).sub(1).clamp_max(6)
            chosen = torch.randint(len(population), (count,), generator=generator)
            chosen = chosen.to(population.z.device)
            noise = torch.randn(space.rank, count, generator=generator).to(self.x.device)
            r = population.residuals[chosen] @ space.residuals.float()
            r = functional.pad(r, (0, self.r.shape[2] - r.shape[1]))
            direction = self.directions[place] @ r.mT
            factor = _to_length(direction, dim=0)
            direction, r = direction * factor, r * factor.mT
            z = self._project_z(self._scaled(victim, population.z[chosen].mT), place)
            active = (population.z[chosen].mT if space.is_predicted else z) > 0
            random = space.basis.float() @ noise
            random = RANDOM_PART * _to_length(random, dim=0) * random
            self.z[place, :, rows] = z
            self.x[place, :, rows] = self._derivatives(active) * direction + random
            self.r[place, rows] = r
            length = (SHORTEST * 2**doubled).long()
            self.iterations_left[place, rows] = length.to(self.iterations_left.device)

    def _pairs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return z and x that belong together, near those of the runs, and the masks; keep r.

        The mask is the best one for the last r, the new r the best one for that mask; then follows
        the mask for that r. The length of x is fixed, or 0 would be a solution everywhere.
        """
        q = self.directions.shape[2]
        derivatives = self._derivatives(self._mask(self.directions @ self.r.mT))
        normal = (derivatives.square().mT @ self.squares).reshape(*self.r.shape, q)
        trace = normal.diagonal(dim1=2, dim2=3).sum(2) / self.widths[:, None]
        eye = torch.eye(q, dtype=self.x.dtype, device=self.x.device)
        ridge = eye * (RIDGE * trace + TINY)[..., None, None]
        r = torch.linalg.solve(normal + ridge, (derivatives * self.x).mT @ self.directions)
        direction = self.directions @ r.mT
        factor = _to_length(direction, dim=1)
        direction, self.r = direction * factor, r * factor.mT
        active = self._mask(direction)
        z = torch.where(active, self.z.clamp_min(0), self.z.clamp_max(0))
        return z, self._derivatives(active) * direction, active

    def _mask(self, direction: Tensor) -> Tensor:
        """Return where (z, x) is nearer to (z > 0, W_oᵀ r) than to (z ≤ 0, slope · W_oᵀ r)."""
        active = self.z.clamp_max(0).square() + (self.x - direction).square()
        inactive = self.z.clamp_min(0).square() + (self.x - self.slope * direction).square()
        nearer: Tensor = active < inactive
        return nearer

    def _derivatives(self, active: Tensor) -> Tensor:
        return self.slope + (1 - self.slope) * active.to(self.x.dtype)

    def _project_x(self, x: Tensor) -> Tensor:
        """Return x projected onto the column space."""
        onto: Tensor = self.basis @ (self.basis.mT @ x)
        return onto

    def _project_z(self, z: Tensor, place: int | None = None) -> Tensor:
        """Return z projected onto what the row space, deflated, allows."""
        at = slice(None) if place is None else place
        away, basis = z - self.origin[at], self.z_basis[at]
        onto: Tensor = self.origin[at] + basis @ (basis.mT @ away)
        return onto

    def _scaled(self, victim: int, z: Tensor) -> Tensor:
        """Return z with as much weight as x, or with none where it is predicted."""
        problem = self.problems[victim]
        return z * 0 if problem.space.is_predicted else z / problem.population.z.std()

    def _deflate(self, place: int) -> None:
        """Take individuals that are found out of the row space."""
        problem = self.problems[self.open[place]]
        space = problem.space
        layer = problem.head.first.extended() @ space.rows
        subspace = deflated_subspace(space, problem.candidates.columns)
        basis = torch.linalg.qr(layer @ subspace.directions.mT)[0].float()
        origin = (layer @ subspace.origin).float()[:, None]
        self.origin[place] = self._scaled(self.open[place], origin)
        self.z_basis[place] = 0
        if not space.is_predicted:
            self.z_basis[place, :, : basis.shape[1]] = basis

    def _harvest(self, x: Tensor, active: Tensor) -> None:
        """Take what is right and end its runs, even where it is not new."""
        outside = x - self._project_x(x)
        promising = outside.norm(dim=1) < PROMISING * x.norm(dim=1)
        promising &= active.sum(1) > SPARE_UNITS
        for place, victim in enumerate(self.open):
            self.idle[victim] += HARVEST_EVERY
            rows = promising[place].nonzero().flatten()
            if len(rows):
                space, candidates = self.problems[victim].space, self.problems[victim].candidates
                before, score = len(candidates), candidates.score
                right = take_masks(active[place][:, rows], space, candidates)
                self.iterations_left[place, rows[right]] = 0
                if len(candidates) != before:
                    repair_masks(space, candidates)
                    if len(candidates) >= space.rank and not candidates.done:
                        # They do not fit together, so that at least one is no individual's.
                        candidates.discard_uncertain()
                    self._deflate(place)
                if candidates.score > score:
                    self.idle[victim] = 0

    def _drop_finished(self, patience: int) -> None:
        """Keep the victims that are neither found completely nor given up."""
        places = [
            place
            for place, victim in enumerate(self.open)
            if not self.problems[victim].candidates.done and self.idle[victim] < patience
        ]
        if len(places) == len(self.open):
            return
        self.open = [self.open[place] for place in places]
        of_spaces = ("basis", "directions", "squares", "widths", "origin", "z_basis")
        for name in (*of_spaces, "x", "z", "r", "iterations_left"):
            setattr(self, name, getattr(self, name)[places])


def batches_side_by_side(head: Head, runs: int, individuals: int) -> int:
    """Return how many victim batches to search side by side.

    Args:
        runs: of each batch.
        individuals: of the largest batch.
    """
    units = len(head.first.bias)
    width = min(individuals, head.error_dimensions, WIDEST)
    numbers = max(runs * units, (runs + units) * width**2)
    return max(1, SIDE_BY_SIDE[head.first.weight.device.type != "cpu"] // numbers)


def _to_length(x: Tensor, dim: int) -> Tensor:
    """Return the factors of vectors, along `dim`, for a mean square of ½."""
    factor: Tensor = sqrt(x.shape[dim] / 2) / x.norm(dim=dim, keepdim=True).clamp_min(TINY)
    return factor


def _padded(matrices: Sequence[Tensor]) -> Tensor:
    """Return matrices stacked, with columns of zeros to the width of the widest."""
    width = max(matrix.shape[1] for matrix in matrices)
    return torch.stack([functional.pad(m, (0, width - m.shape[1])) for m in matrices])


STEP = 0.5
"""Step β of the relaxed reflections (Elser, Rankenburg, Thibault 2007)."""

RANDOM_PART = 0.5
"""Length of the random part of a start, relative to that of an auxiliary individual's mask."""

SHORTEST = 50
"""Iterations of the shortest runs."""

HARVEST_EVERY = 4
"""Iterations between looks at what has been found."""

RIDGE = 1e-5
"""Relative ridge of the least squares in single precision."""

WIDEST = 16
"""Dimensions of the space of residuals up to which reflections find more than Newton's method."""

SIDE_BY_SIDE = (2**16, 2**26)
"""Numbers in the runs of victims side by side: what stays in a core's cache, and on a GPU."""
