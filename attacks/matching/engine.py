"""The engine of gradient-matching attacks: dummy data whose gradient approaches the update.

It differentiates through the shared model for many victims and runs at once, keeps each run's best
iterate, ends runs that have converged and starts afresh those that diverged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from leakbench.attacks.matching.compiled import compiled, worth_compiling
from leakbench.attacks.matching.distance import FactoredGradients, squared_norm, weighted
from leakbench.attacks.matching.dummy_gradients import (
    Weights,
    dummy_gradients,
    layers_with_rules,
    weights_of,
)
from leakbench.attacks.matching.memory import runs_together
from leakbench.attacks.matching.method import Iterate, Method, Reconstruction, Victim
from leakbench.attacks.matching.precision import tensor_cores
from leakbench.attacks.matching.priors import Statistics
from leakbench.attacks.matching.runs import Runs, joined
from leakbench.attacks.matching.simulation import Simulation
from leakbench.base.choices import Compiling, Precision
from leakbench.base.memory import does_not_fit, is_out_of_memory
from leakbench.base.seeds import generator_for
from leakbench.federation.shared_model import SharedModel
from leakbench.threat.attack import Progress


def match_gradients(
    model: SharedModel,
    method: Method,
    victims: Sequence[Victim],
    classes: int,
    progress: Progress,
    compiling: Compiling = "auto",
    precision: Precision = "float32",
    simulation: Simulation | None = None,
) -> list[Reconstruction]:
    """Run a method on victims of one batch size, several at a time.

    Args:
        model: as clients run it, see `leakbench.federation.batch_norm.in_mode`.
        classes: K, for soft labels.
        progress: called with the share of evaluations done.
        precision: in which the model computes; all else is in the model's own.
        simulation: of the clients' defense, if it is known and changes the update.

    Raises:
        UsageError: not even one victim fits into memory.
    """
    if not victims:
        return []
    with tensor_cores(precision):
        return _match(model, method, victims, classes, progress, compiling, precision, simulation)


def _match(
    model: SharedModel,
    method: Method,
    victims: Sequence[Victim],
    classes: int,
    progress: Progress,
    compiling: Compiling,
    precision: Precision,
    simulation: Simulation | None,
) -> list[Reconstruction]:
    device = next(model.parameters()).device
    sample = method.start(victims[0], torch.Generator()).to(device)
    layers = layers_with_rules(model, sample)
    evaluations = method.steps * method.runs * len(victims)
    # Clients' updates, and steps one after the other, make a graph that takes too long to compile.
    compiles = simulation is None and worth_compiling(compiling, model, sample, evaluations)
    factored = method.factors and layers is not None and simulation is None
    gradients = 1 if simulation is None else simulation.gradients
    together = runs_together(model, method, sample, factored) // (method.runs * gradients)
    found: list[Reconstruction] = []
    step = _Step(model, method, layers, precision, simulation)
    group = _even(len(victims), max(1, together))
    while len(found) < len(victims):
        some = victims[len(found) : len(found) + group]
        # The last group is filled up: a compiled step is made for one shape.
        filled = [*some, *[some[-1]] * (group - len(some) if compiles else 0)]

        def tell(share: float, done: int = len(found), several: int = len(some)) -> None:
            progress((done + several * share) / len(victims))

        try:
            search = _Search(step, filled, classes, sample.shape)
            found += _attack(search, compiles, tell)[: len(some)]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if group == 1:
                raise does_not_fit(victims[0].batch_size, device) from error
            group = _even(len(victims) - len(found), group // 2)
    return found


def _even(count: int, most: int) -> int:
    """Return the size of groups of at most `most`, the last one hardly smaller.

    >>> _even(10, 4), _even(3, 8)
    (4, 3)
    >>> _even(9, 8)
    5
    """
    return math.ceil(count / math.ceil(count / most))


def _attack(search: _Search, compiles: bool, progress: Progress) -> list[Reconstruction]:
    step = search.advance
    if compiles and step.fast_for != len(search.runs):
        step.compile(search.runs)
    while search.runs:
        search.step()
        progress(search.share_done)
    return search.best_of_each_victim()


class _Step:
    """One step of R runs, as a function of tensors: evaluate their gradients once, and move."""

    def __init__(
        self,
        model: SharedModel,
        method: Method,
        layers: Sequence[str] | None,
        precision: Precision,
        simulation: Simulation | None,
    ) -> None:
        self.model, self.method, self.layers = model, method, layers
        self.simulation = simulation
        self.weights = weights_of(model, torch.bfloat16 if precision == "bfloat16" else None)
        self.fast: Callable[..., Any] | None = None
        self.fast_for = 0  # also where compiling failed, so that it is tried once

    def __call__(
        self, runs: Runs, noise: Tensor | None, number: int
    ) -> tuple[dict[str, Any], Tensor]:
        """Return what changes in the runs, and which have ended or are lost, shape (2, R).

        Args:
            noise: what is added to the images, standard normal, shape (R, B, 3, size, size).
            number: of steps taken before.
        """
        fast = self.fast if len(runs) == self.fast_for else None
        # Outside of what is compiled, where it would be computed anew for every variable.
        factor = self.method.schedule((runs.since / runs.length)[:, None])
        if fast is not None and self.method.optimiser.compiles:
            found: tuple[dict[str, Any], Tensor] = fast(*self._tensors(runs, factor, noise))
            return found
        if fast is not None:
            distance, gradient = fast(*self._tensors(runs))
        else:
            distance, gradient = self._evaluate(self.weights, runs)
        return self._move(runs, distance, gradient, factor, noise, number)

    def compile(self, runs: Runs) -> None:
        """Compile for runs of this shape.

        The move is left out where the optimiser's is not the same computation every time.
        """
        whole = self.method.optimiser.compiles

        def step(weights: Weights, tensors: dict[str, Any], *more: Tensor) -> Any:
            given = replace(runs, **tensors)
            distance, gradient = self._evaluate(weights, given)
            if not whole:
                return distance, gradient
            noise = more[1] if self.method.noise else None
            return self._move(given, distance, gradient, more[0], noise, 0)

        factor = runs.since[:, None] if whole else None
        noise = runs.parts(runs.variables)[0] if whole and self.method.noise else None
        self.fast = compiled(step, *self._tensors(runs, factor, noise))
        self.fast_for = len(runs)

    def _tensors(
        self, runs: Runs, factor: Tensor | None = None, noise: Tensor | None = None
    ) -> tuple[Any, ...]:
        """Return the arguments of the compiled step, those left out that it does not take."""
        more = [tensor for tensor in (factor, noise) if tensor is not None]
        return self.weights, runs.tensors(), *more

    def _evaluate(self, weights: Weights, runs: Runs) -> tuple[Tensor, Tensor]:
        """Return each run's distance, and the gradient of distance plus prior by its variables."""
        method = self.method
        with torch.enable_grad():
            variables = runs.variables.detach().requires_grad_()
            images, logits = runs.parts(variables)
            gradients, statistics = self._updates(
                weights,
                runs,
                method.pixels.to_pixels(images),
                logits.softmax(2) if runs.labels is None else runs.labels,
            )
            target = runs.measured() if method.factors else runs.target
            loss = distance = method.distance(weighted(gradients, runs.reliability), target)
            if method.prior is not None:
                done = runs.since / runs.length
                loss = loss + method.prior(
                    Iterate(images, done, runs.victim, statistics, runs.target_statistics)
                )
            (gradient,) = torch.autograd.grad(loss.sum(), variables)
        return distance.detach(), gradient

    def _updates(
        self, weights: Weights, runs: Runs, pixels: Tensor, targets: Tensor
    ) -> tuple[FactoredGradients, Statistics]:
        """Return what would be sent for the dummies, and their statistics if a prior takes them."""
        with_statistics = bool(runs.target_statistics)
        if self.simulation is None:
            return dummy_gradients(
                self.model,
                pixels,
                targets,
                self.layers,
                with_statistics=with_statistics,
                factors=self.method.factors,
                weights=weights,
            )
        assert runs.shares is not None
        return self.simulation.updates(
            self.model, pixels, targets, runs.shares, self.layers, with_statistics, weights
        )

    def _move(
        self,
        runs: Runs,
        distance: Tensor,
        gradient: Tensor,
        factor: Tensor,
        noise: Tensor | None,
        number: int,
    ) -> tuple[dict[str, Any], Tensor]:
        method = self.method
        finite = distance.isfinite() & gradient.isfinite().all(1)
        distance = torch.where(finite, distance, math.inf)
        better = distance < runs.best_loss
        notable = distance < 0.99 * runs.mark
        moved, state, stalled = method.optimiser.step(
            runs.variables, gradient, runs.state, factor, number
        )
        taken, stale = runs.taken + 1, torch.where(notable, 0, runs.stale + 1)
        variables = self._constrained(runs, moved, factor, noise)
        best_loss = torch.where(better, distance, runs.best_loss)
        changed = {
            "variables": variables,
            "state": state,
            "taken": taken,
            "since": runs.since + 1,
            "mark": torch.where(notable, distance, runs.mark),
            "stale": stale,
            "first_loss": torch.where(runs.taken == 0, distance, runs.first_loss),
            "best_loss": best_loss,
            "best": torch.where(better[:, None], runs.variables, runs.best),
        }
        ended = (taken >= method.steps) | (best_loss <= method.tolerance)
        if method.patience is not None:
            stalled = stalled | (stale >= method.patience)
        lost = (~finite | stalled | ~variables.isfinite().all(1)) & ~ended
        return changed, torch.stack([ended, lost])

    def _constrained(
        self, runs: Runs, variables: Tensor, factor: Tensor, noise: Tensor | None
    ) -> Tensor:
        """Return the variables with noise added to the images, and then projected."""
        method = self.method
        images, logits = runs.parts(variables)
        if noise is not None:
            images = images + method.noise * factor.view(-1, 1, 1, 1, 1) * noise
        if method.projected:
            inside = images.clamp(method.pixels.low, method.pixels.high)
            early = (runs.since < method.projected).view(-1, 1, 1, 1, 1)
            images = torch.where(early, inside, images)
        return joined(images, logits)


class _Search:
    """The runs of some victims, side by side."""

    def __init__(
        self, step: _Step, victims: Sequence[Victim], classes: int, image_shape: torch.Size
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
        self.ended: list[Runs] = []
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
            # The large parts, an L-BFGS history above all, are of no use any more.
            empty: dict[str, Any] = {
                name: {}
                for name in ("target", "target_norms", "target_statistics", "reliability", "state")
            }
            finished = replace(self.runs, **empty)
            self.ended.append(finished.where(ended))
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
        victims = range(len(self.of_run) // self.method.runs)
        return [self._reconstruction([p.where(p.victim == v) for p in self.ended]) for v in victims]

    def _reconstruction(self, parts: Sequence[Runs]) -> Reconstruction:
        losses = torch.cat([part.best_loss for part in parts])
        best = int(losses.argmin())
        images, logits = self.ended[0].parts(torch.cat([part.best for part in parts])[best][None])
        labels = self.of_run[int(torch.cat([part.number for part in parts])[best])].labels
        if self.method.projected == math.inf:  # the start is not
            images = images.clamp(self.method.pixels.low, self.method.pixels.high)
        loss = losses[best].item()
        first = torch.cat([part.first_loss for part in parts])[best].item()
        return Reconstruction(
            images=self.method.pixels.to_pixels(images[0]),
            labels=logits[0].argmax(1) if labels is None else labels,
            loss=loss,
            steps=sum(int(part.taken.sum()) for part in parts),
            restarts=sum(int(part.restarts.sum()) for part in parts),
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
