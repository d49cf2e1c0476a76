"""Search for individuals one after the other, by Newton's method in the gradient's row space.

The gradient of the first layer is G = Σ_i x_i [h_i, 1]ᵀ = U S Vᵀ. So [h_i, 1] = V a_i and
x_i = U c_i with few unknowns a_i each, and an individual of a_i and label y makes x(a_i, y) by the
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

from leakbench.attacks.linear_layers.demixing.deflated_subspace import deflated_subspace
from leakbench.attacks.linear_layers.demixing.gradient_space import TINY
from leakbench.attacks.linear_layers.demixing.levenberg_marquardt import least_squares
from leakbench.attacks.linear_layers.demixing.masked_space import MaskedSpace
from leakbench.attacks.linear_layers.demixing.masks import PROMISING, repair_masks, take_masks
from leakbench.attacks.linear_layers.demixing.problem import Problem
from leakbench.attacks.linear_layers.demixing.recovered import NOISE_MARGIN, SOLVED
from leakbench.attacks.linear_layers.demixing.search_budget import SearchBudget


@dataclass(frozen=True)
class Newton:
    """The search in one victim batch's space.

    Attributes:
        problem: whose candidates take what is found.
        runs: side by side.
    """

    problem: Problem
    runs: int

    def search(self, budget: SearchBudget, progress: Callable[[float], None]) -> None:
        """Search until all individuals are certain or the budget is spent."""
        problem, candidates = self.problem, self.problem.candidates
        population = problem.population
        generator = torch.Generator().manual_seed(problem.batch.seed)
        extended = functional.pad(population.features.double(), (0, 1), value=1.0)
        start = extended @ problem.space.rows
        counts = label_counts(problem)
        unsuccessful = 0
        for number in range(budget.rounds):
            if candidates.done or unsuccessful == budget.patience:
                break
            progress(number / budget.rounds)
            if len(candidates) >= problem.space.rank:
                # They do not fit together, so that at least one is no individual's.
                candidates.discard_uncertain()
            chosen = torch.randint(len(population), (self.runs,), generator=generator)
            chosen = chosen.to(start.device)
            softness = torch.rand(self.runs, 1, generator=generator, dtype=torch.float64)
            labels = torch.multinomial(counts.cpu(), self.runs, True, generator=generator)
            new = self._round(start[chosen], labels.to(start.device), softness.to(start))
            unsuccessful = 0 if new else unsuccessful + 1

    def _round(self, starts: Tensor, labels: Tensor, softness: Tensor) -> bool:
        """Run from some starts, and return whether a new individual is found.

        Args:
            starts: a of individuals of D_aux, shape (runs, rank).
            labels: with which every other run begins, shape (runs,).
            softness: by which kinks are softened more or less, in [0, 1], shape (runs, 1).
        """
        head, space, candidates = self.problem.head, self.problem.space, self.problem.candidates
        subspace = deflated_subspace(space, candidates.columns)
        t = (starts - subspace.origin) @ subspace.directions.mT
        layer = head.first.extended() @ space.rows
        z0, tangents = layer @ subspace.origin, layer @ subspace.directions.mT
        for stage, (sharpness, iterations) in enumerate(self._stages(softness)):
            z = z0 + t @ tangents.mT
            nearest = self._nearest_labels(z, sharpness)
            if stage == 0:
                nearest[::2] = labels[::2]
            targets = head.targets[nearest]
            if t.shape[1]:
                equations = self._equations(z0, tangents, targets, sharpness)
                t = least_squares(equations, t, iterations)
        before = candidates.score
        z = z0 + t @ tangents.mT
        if isinstance(space, MaskedSpace):
            take_masks((z > 0).mT, space, candidates)
            repair_masks(space, candidates)
        else:
            self._take(subspace.origin + t @ subspace.directions, targets)
        return candidates.done or candidates.score > before

    def _stages(self, softness: Tensor) -> list[tuple[Tensor | None, int]]:
        """Return the sharpness of kinks, shape (runs, 1), and iterations of each stage.

        Runs begin at different softness: a problem that is too soft has one minimum, where all runs
        would end.
        """
        if not isinstance(self.problem.space, MaskedSpace):
            return [(None, ITERATIONS)]
        first = SOFTEST**softness / self.problem.population.z.std()
        return [(first * SHARPENING**stage, count) for stage, count in enumerate(STAGES)]

    def _nearest_labels(self, z: Tensor, sharpness: Tensor | None) -> Tensor:
        """Return the labels with which x is nearest to the space, shape (runs,)."""
        head, space = self.problem.head, self.problem.space
        classes = head.targets
        every = None if sharpness is None else sharpness[:, None]
        x = head.errors(z[:, None], classes, every) * space.scale
        return space.distance(x).argmin(1)

    def _equations(
        self, z0: Tensor, tangents: Tensor, targets: Tensor, sharpness: Tensor | None
    ) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        """Return t → the part of x / ‖x‖ outside the space, (runs, m), and its derivatives."""
        head = self.problem.head
        basis, scale = self.problem.space.basis, self.problem.space.scale

        def equations(t: Tensor) -> tuple[Tensor, Tensor]:
            z = z0 + t @ tangents.mT
            x, dx = head.linearised(z, tangents, targets, sharpness)
            x, dx = x * scale, dx * scale[:, None]
            length = x.norm(dim=1, keepdim=True).clamp_min(TINY)
            x, dx = x / length, dx / length[..., None]
            outside = x - (x @ basis) @ basis.mT
            turned = dx - basis @ (basis.mT @ dx)
            return outside, turned - outside[..., None] * (x[:, None] @ dx)

        return equations

    def _take(self, a: Tensor, targets: Tensor) -> None:
        """Take the runs whose x lies in the space as candidates."""
        head, space = self.problem.head, self.problem.space
        features = (a @ space.rows.mT)[:, :-1]
        x = head.errors(head.first.forward(features), targets) * space.scale
        distances = space.distance(x)
        tolerances = SOLVED + NOISE_MARGIN * space.noise_sensitivity(x.mT)
        tolerances = tolerances.clamp_max(PROMISING)
        right = distances < tolerances
        self.problem.candidates.add(
            x[right].mT, distances[right], tolerances[right], features[right]
        )


def label_counts(problem: Problem) -> Tensor:
    """Return about how many individuals have each label, above 0, shape (K,).

    The gradient of the output layer's bias is mean(p) − counts / B, where D_aux's p approximate
    those of the batch. Of another loss than the mean cross-entropy they are assumed equal.
    """
    population, head = problem.population, problem.head
    if not head.loss.is_plain:
        return torch.full((head.classes,), problem.space.individuals / head.classes)
    own = functional.one_hot(population.labels, head.classes)
    predicted = (population.residuals + own).mean(0).double()
    bias = head.output.gradient(problem.batch.update)[:, -1]
    return (problem.space.individuals * (predicted - bias)).clamp_min(SELDOM)


def affordable_runs(problem: Problem, runs: int) -> int:
    """Return how many of the runs fit into the time and memory of a step."""
    on_gpu = problem.head.first.weight.device.type != "cpu"
    of_a_run = len(problem.head.first.bias) * problem.space.rank**2
    return max(1, min(runs, A_STEP[on_gpu] // of_a_run))


STAGES = (15, 10, 10, 8, 8)
"""Iterations at each sharpness."""

SHARPENING = 3.0
"""Ratio of the sharpness of successive stages."""

SOFTEST = 30.0
"""Runs begin at up to this multiple of the least sharpness, which is 1 / std of z on D_aux."""

ITERATIONS = 40
"""Iterations where there is no kink."""

SELDOM = 0.05
"""Individuals assumed of a class that the output layer's gradient does not show."""

A_STEP = (2**30, 2**34)
"""Multiplications in a step of Newton's method: a second or so on a core, and on a GPU."""
