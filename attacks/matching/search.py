"""The search for some victims' dummies: their runs from start to end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from leakbench.attacks.matching.distance import squared_norm, weighted
from leakbench.attacks.matching.method import Reconstruction, Victim
from leakbench.attacks.matching.runs import EndedRuns, Runs, concatenated, joined, parts
from leakbench.attacks.matching.step import Step
from leakbench.base.seeds import generator_for


class Search:
    """The runs of some victims, side by side.

    It keeps each run's best iterate, ends runs that have converged and restarts those that
    diverged.
    """

    def __init__(
        self, step: Step, victims: Sequence[Victim], classes: int, image_shape: torch.Size
    ) -> None:
        self.advance, self.method, self.classes = step, step.method, classes
        self.device = next(step.model.parameters()).device
        self.of_run = [victim for victim in victims for _ in range(self.method.runs)]
        self.generators = [
            generator_for("run", victim.seed, number % self.method.runs)
            for number, victim in enumerate(self.of_run)
        ]
        self.image_shape = image_shape
        self.runs = self._begin(self._starts(range(len(self.of_run))))
        self.ended: list[EndedRuns] = []
        self.number = 0

    def _begin(self, variables: Tensor) -> Runs:
        of_run, steps = self.of_run, self.method.steps
        numbers = torch.arange(len(of_run), device=self.device)
        known = [victim.labels for victim in of_run if victim.labels is not None]
        zeros = torch.zeros(len(of_run), device=self.device)
        reliability = {
            name: torch.stack([v.reliability[name] for v in of_run])
            for name in of_run[0].reliability
        }
        target = {name: _stacked([v.update[name] for v in of_run]) for name in of_run[0].update}
        target = weighted(target, reliability)
        norms = {n: squared_norm(g) for n, g in target.items()} if self.method.factors else {}
        return Runs(
            number=numbers,
            victim=numbers // self.method.runs,
            target=target,
            target_norms=norms,
            target_statistics={
                layer: (
                    torch.stack([v.statistics[layer][0] for v in of_run]),
                    torch.stack([v.statistics[layer][1] for v in of_run]),
                )
                for layer in of_run[0].statistics
            },
            reliability=reliability,
            shares=self._shares(),
            image_shape=self.image_shape,
            labels=torch.stack(known) if known else None,
            variables=variables,
            state=self.method.optimiser.begin(variables, steps),
            taken=zeros,
            since=zeros,
            length=zeros + steps,
            restarts=zeros,
            mark=zeros + math.inf,
            stale=zeros,
            first_loss=zeros + math.inf,
            best_loss=zeros + math.inf,
            best=variables,
        )

    def _shares(self) -> Tensor | None:
        """Draw which dummies are each client's, where a defense is simulated."""
        simulation = self.advance.simulation
        if simulation is None:
            return None
        drawn = [
            simulation.shared_out(
                victim.batch_size, generator_for("shares", victim.seed, number % self.method.runs)
            )
            for number, victim in enumerate(self.of_run)
        ]
        return torch.stack(drawn).to(self.device)

    @property
    def share_done(self) -> float:
        """The share of all evaluations that are spent or no longer needed."""
        left = len(self.runs) * (1 - self.number / self.method.steps)
        return 1 - left / len(self.of_run)

    def step(self) -> None:
        """Evaluate the gradient of every run once, and move."""
        with torch.no_grad():
            changed, flags = self.advance(self.runs, self.noise(), self.number)
        self.number += 1
        self.runs = replace(self.runs, **changed)
        any_ended, any_lost = flags.any(1).tolist()
        ended, lost = flags
        if any_lost:
            self._start_afresh(lost)
        if any_ended:
            self.ended.append(self.runs.ended(ended))
            self.runs = self.runs.where(~ended)

    def noise(self) -> Tensor | None:
        """Return each run's next noise, (R, B, 3, size, size), if the method adds any."""
        if not self.method.noise:
            return None
        drawn = [
            torch.randn(self.image_shape, generator=self.generators[number])
            for number in self.runs.number.tolist()
        ]
        return _stacked(drawn).to(self.device)

    def best_of_each_victim(self) -> list[Reconstruction]:
        """Return the best run of each victim, once all have ended."""
        ended = concatenated(self.ended)
        victim = ended.number // self.method.runs
        # Runs by victim; those of one victim stay in the order in which they ended.
        by_victim = victim.argsort(stable=True).reshape(-1, self.method.runs)
        return [self._reconstruction(ended, rows) for rows in by_victim]

    def _reconstruction(self, ended: EndedRuns, rows: Tensor) -> Reconstruction:
        """Return the best of a victim's runs, which are in these rows."""
        best = rows[ended.best_loss[rows].argmin()]
        images, logits = parts(ended.best[best][None], self.image_shape)
        labels = self.of_run[int(ended.number[best])].labels
        if self.method.projected == math.inf:  # the start is not
            images = images.clamp(self.method.pixels.low, self.method.pixels.high)
        loss, first = ended.best_loss[best].item(), ended.first_loss[best].item()
        return Reconstruction(
            images=self.method.pixels.to_pixels(images[0]),
            labels=logits[0].argmax(1) if labels is None else labels,
            loss=loss,
            steps=int(ended.taken[rows].sum()),
            restarts=int(ended.restarts[rows].sum()),
            diverged=not (loss < first or loss <= self.method.tolerance),
        )

    def _starts(self, numbers: Iterable[int]) -> Tensor:
        """Return the first variables of runs, shape (R, n)."""
        starts = [self._start(self.of_run[n], self.generators[n]) for n in numbers]
        images, logits = zip(*starts, strict=True)
        return joined(torch.stack(images), torch.stack(logits)).to(self.device)

    def _start(self, victim: Victim, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return a run's first images (B, 3, size, size) and logits (B, K), or (B, 0) if known."""
        images = self.method.start(victim, generator)
        classes = self.classes if victim.labels is None else 0
        logits = torch.randn(victim.batch_size, classes, generator=generator)
        return images, logits.to(images.device)

    def _start_afresh(self, lost: Tensor) -> None:
        """Give the lost runs a new start, from which they have the rest of their evaluations."""
        runs = self.runs
        variables = self._starts(runs.number[lost].tolist())
        fresh = self.method.optimiser.begin(variables, self.method.steps)
        for key, value in runs.state.items():
            value[lost] = fresh[key]
        self.runs = replace(
            runs,
            variables=runs.variables.index_put((lost,), variables),
            since=torch.where(lost, 0, runs.since),
            length=torch.where(lost, self.method.steps - runs.taken, runs.length),
            restarts=runs.restarts + lost,
            mark=torch.where(lost, math.inf, runs.mark),
            stale=torch.where(lost, 0, runs.stale),
        )


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Return runs' gradients or images as one tensor, with channels innermost as dummies' have."""
    stacked = torch.stack(list(tensors))
    return stacked.movedim(2, -1).contiguous().movedim(-1, 2) if stacked.ndim == 5 else stacked
