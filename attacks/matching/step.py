"""One step of many runs: differentiate through the shared model, and move the dummies."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from leakbench.attacks.matching.compiled import compiled
from leakbench.attacks.matching.distance import FactoredGradients, weighted
from leakbench.attacks.matching.dummy_gradients import dummy_gradients, weights_of
from leakbench.attacks.matching.layer_rules import Weights
from leakbench.attacks.matching.method import Iterate, Method
from leakbench.attacks.matching.priors import Statistics
from leakbench.attacks.matching.runs import Runs, joined
from leakbench.attacks.matching.simulation import Simulation
from leakbench.base.choices import Precision
from leakbench.federation.shared_model import SharedModel


class Step:
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
        """Return the changed fields of the runs, and which have ended or are lost, shape (2, R).

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
        """Return the updates of the dummies, and their statistics if a prior uses them."""
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
