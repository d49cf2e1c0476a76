"""The engine of gradient-matching attacks: dummy data whose gradient approaches the update.

It differentiates through the shared model for many victims and runs at once, keeps each run's best
iterate, ends runs that have converged and starts afresh those that diverged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from attacks.distance import Gradients
from attacks.linear_layers import Factors, factored_layers, shifted_outputs
from attacks.method import Iterate, Method, Reconstruction, Victim
from attacks.optimisers import State
from attacks.priors import Statistics
from bench.federation import recorded_statistics
from bench.models import SharedModel
from bench.seeds import generator_for
from bench.threat import Progress


def match_gradients(
    model: SharedModel,
    method: Method,
    victims: Sequence[Victim],
    classes: int,
    progress: Progress,
) -> list[Reconstruction]:
    """Run a method on victims of one batch size, several at a time.

    Args:
        model: as clients run it, see `bench.federation.in_mode`.
        classes: K, for soft labels.
        progress: called with the share of evaluations done.
    """
    if not victims:
        return []
    found: list[Reconstruction] = []
    device = next(model.parameters()).device
    sample = method.start(victims[0], torch.Generator()).to(device)
    factored = factored_layers(model, sample) if method.factors else []
    together = _victims_together(model, method, sample, factored)
    for first in range(0, len(victims), together):
        some = victims[first : first + together]
        search = _Search(model, method, some, classes, factored)
        while search.runs:
            search.step()
            progress((len(found) + len(some) * search.share_done) / len(victims))
        found += search.best_of_each_victim()
    return found


def dummy_gradients(
    model: SharedModel,
    pixels: Tensor,
    targets: Tensor,
    with_statistics: bool = False,
    factored: Sequence[str] = (),
) -> tuple[dict[str, Any], Statistics]:
    """Return the update that each run's dummies would make, differentiably.

    Args:
        pixels: shape (R, B, 3, size, size).
        targets: classes, shape (R, B), or class probabilities, shape (R, B, K).
        with_statistics: also return what BatchNorm layers see.
        factored: linear layers whose weight gradients are returned as `Factors`.
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    fixed = {f"{layer}.weight": parameters[f"{layer}.weight"] for layer in factored}
    free = {name: p for name, p in parameters.items() if name not in fixed}
    shifts = {
        layer: pixels.new_zeros(pixels.shape[1], len(fixed[f"{layer}.weight"]))
        for layer in factored
    }

    def loss(
        weights: dict[str, Tensor], shifts: dict[str, Tensor], images: Tensor, labels: Tensor
    ) -> tuple[Tensor, tuple[dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]]:
        with (
            recorded_statistics(model, record=with_statistics) as statistics,
            shifted_outputs(model, shifts) as inputs,
        ):
            logits = functional_call(model, weights | fixed, (images,))
        return functional.cross_entropy(logits, labels), (statistics, inputs)

    per_run = vmap(grad(loss, argnums=(0, 1), has_aux=True), in_dims=(None, None, 0, 0))
    (gradients, deltas), (statistics, inputs) = per_run(free, shifts, pixels, targets)
    products = {f"{n}.weight": Factors(deltas[n], inputs[n]) for n in factored}
    update = gradients | products
    return {name: update[name] for name in parameters}, statistics


@dataclass(frozen=True)
class _Runs:
    """R runs that go on. Every tensor has the runs as its first axis.

    Attributes:
        number: of the run among those that began together; `method.runs` of each victim.
        victim: which victim it belongs to.
        target, target_statistics, labels: the victim's; no labels where they are sought.
        variables: images and label logits, flat, shape (R, n).
        state: the optimiser's.
        taken: evaluations spent.
        since, length: evaluations since the last start, and how many there are from start to end.
        restarts: starts after the first.
        mark, stale: the last notable distance since the start, and the evaluations since then.
        first_loss, best_loss, best: distance of the first iterate and of the best, and that one.
    """

    number: Tensor
    victim: Tensor
    target: Gradients
    target_statistics: Statistics
    labels: Tensor | None
    variables: Tensor
    state: State
    taken: Tensor
    since: Tensor
    length: Tensor
    restarts: Tensor
    mark: Tensor
    stale: Tensor
    first_loss: Tensor
    best_loss: Tensor
    best: Tensor

    def __len__(self) -> int:
        return len(self.number)

    def where(self, chosen: Tensor) -> _Runs:
        """Return the runs that are chosen, shape (R,)."""
        return _Runs(**{f.name: _rows(getattr(self, f.name), chosen) for f in fields(self)})


def _rows(value: Any, chosen: Tensor) -> Any:
    """Return the chosen rows of every tensor in a tree of mappings and tuples."""
    if isinstance(value, Tensor):
        return value[chosen]
    if isinstance(value, tuple):
        return tuple(_rows(part, chosen) for part in value)
    return {key: _rows(part, chosen) for key, part in value.items()} if value is not None else None


class _Search:
    """The runs of some victims, side by side."""

    def __init__(
        self,
        model: SharedModel,
        method: Method,
        victims: Sequence[Victim],
        classes: int,
        factored: Sequence[str],
    ) -> None:
        self.model, self.method, self.classes = model, method, classes
        self.factored = factored
        self.device = next(model.parameters()).device
        self.of_run = [victim for victim in victims for _ in range(method.runs)]
        self.generators = [
            generator_for("run", victim.seed, number % method.runs)
            for number, victim in enumerate(self.of_run)
        ]
        starts = [self._start(number) for number in range(len(self.of_run))]
        self.image_shape = starts[0][0].shape
        self.runs = self._begin(torch.stack([_joined(*start) for start in starts]))
        self.ended: list[_Runs] = []
        self.number = 0

    def _begin(self, variables: Tensor) -> _Runs:
        of_run, steps = self.of_run, self.method.steps
        numbers = torch.arange(len(of_run), device=self.device)
        known = [victim.labels for victim in of_run if victim.labels is not None]
        zeros = torch.zeros(len(of_run), device=self.device)
        return _Runs(
            number=numbers,
            victim=numbers // self.method.runs,
            target={n: torch.stack([v.update[n] for v in of_run]) for n in of_run[0].update},
            target_statistics={
                layer: (
                    torch.stack([v.statistics[layer][0] for v in of_run]),
                    torch.stack([v.statistics[layer][1] for v in of_run]),
                )
                for layer in of_run[0].statistics
            },
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

    @property
    def share_done(self) -> float:
        """The share of all evaluations that are spent or no longer needed."""
        left = len(self.runs) * (1 - self.number / self.method.steps)
        return 1 - left / len(self.of_run)

    def step(self) -> None:
        """Evaluate the gradient of every run once, and move."""
        method, runs = self.method, self.runs
        distance, gradient = self._evaluate()
        finite = distance.isfinite() & gradient.isfinite().all(1)
        distance = torch.where(finite, distance, math.inf)
        better = distance < runs.best_loss
        notable = distance < 0.99 * runs.mark
        factor = method.schedule((runs.since / runs.length)[:, None])
        moved, state, stalled = method.optimiser.step(
            runs.variables, gradient, runs.state, factor, self.number
        )
        self.number += 1
        self.runs = runs = replace(
            runs,
            variables=self._constrained(moved, factor),
            state=state,
            taken=runs.taken + 1,
            since=runs.since + 1,
            mark=torch.where(notable, distance, runs.mark),
            stale=torch.where(notable, 0, runs.stale + 1),
            first_loss=torch.where(runs.taken == 0, distance, runs.first_loss),
            best_loss=torch.where(better, distance, runs.best_loss),
            best=torch.where(better[:, None], runs.variables, runs.best),
        )
        ended = (runs.taken >= method.steps) | (runs.best_loss <= method.tolerance)
        if method.patience is not None:
            stalled = stalled | (runs.stale >= method.patience)
        lost = (~finite | stalled | ~runs.variables.isfinite().all(1)) & ~ended
        any_ended, any_lost = torch.stack([ended.any(), lost.any()]).tolist()
        if any_lost:
            self._start_afresh(lost)
        if any_ended:
            # The large parts, an L-BFGS history above all, are of no use any more.
            finished = replace(self.runs, target={}, target_statistics={}, state={})
            self.ended.append(finished.where(ended))
            self.runs = self.runs.where(~ended)

    def best_of_each_victim(self) -> list[Reconstruction]:
        """Return the best run of each victim, once all have ended."""
        victims = range(len(self.of_run) // self.method.runs)
        return [self._reconstruction([p.where(p.victim == v) for p in self.ended]) for v in victims]

    def _reconstruction(self, parts: Sequence[_Runs]) -> Reconstruction:
        losses = torch.cat([part.best_loss for part in parts])
        best = int(losses.argmin())
        images, logits = self._parts(torch.cat([part.best for part in parts])[best][None])
        labels = self.of_run[int(torch.cat([part.number for part in parts])[best])].labels
        if self.method.project:  # the start is not
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

    def _evaluate(self) -> tuple[Tensor, Tensor]:
        """Return each run's distance, and the gradient of distance plus prior by its variables."""
        method, runs = self.method, self.runs
        variables = runs.variables.detach().requires_grad_()
        images, logits = self._parts(variables)
        gradients, statistics = dummy_gradients(
            self.model,
            method.pixels.to_pixels(images),
            logits.softmax(2) if runs.labels is None else runs.labels,
            with_statistics=bool(runs.target_statistics),
            factored=self.factored,
        )
        loss = distance = method.distance(gradients, runs.target)
        if method.prior is not None:
            done = runs.since / runs.length
            loss = loss + method.prior(
                Iterate(images, done, runs.victim, statistics, runs.target_statistics)
            )
        (gradient,) = torch.autograd.grad(loss.sum(), variables)
        return distance.detach(), gradient

    def _constrained(self, variables: Tensor, factor: Tensor) -> Tensor:
        """Return the variables with noise added to the images, and then projected."""
        method = self.method
        images, logits = self._parts(variables)
        if method.noise:
            drawn = [
                torch.randn(self.image_shape, generator=self.generators[number])
                for number in self.runs.number.tolist()
            ]
            scale = method.noise * factor.view(-1, 1, 1, 1, 1)
            images = images + scale * torch.stack(drawn).to(self.device)
        if method.project:
            images = images.clamp(method.pixels.low, method.pixels.high)
        return torch.cat([images.flatten(1), logits.flatten(1)], 1)

    def _start(self, number: int) -> tuple[Tensor, Tensor]:
        """Return a run's first images (B, 3, size, size) and logits (B, K), or (B, 0) if known."""
        victim, generator = self.of_run[number], self.generators[number]
        images = self.method.start(victim, generator)
        classes = self.classes if victim.labels is None else 0
        logits = torch.randn(victim.batch_size, classes, generator=generator)
        return images.to(self.device), logits.to(self.device)

    def _start_afresh(self, lost: Tensor) -> None:
        """Give the lost runs a new start, from which they have the rest of their evaluations."""
        runs = self.runs
        starts = [_joined(*self._start(number)) for number in runs.number[lost].tolist()]
        variables = torch.stack(starts)
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

    def _parts(self, variables: Tensor) -> tuple[Tensor, Tensor]:
        """Return images (R, B, 3, size, size) and label logits (R, B, K), or (R, B, 0)."""
        pixels = self.image_shape.numel()
        images = variables[:, :pixels].reshape(-1, *self.image_shape)
        rest = variables[:, pixels:]
        per_individual = (self.image_shape[0], rest.shape[1] // self.image_shape[0])
        return images, rest.reshape(len(variables), *per_individual)


def _joined(images: Tensor, logits: Tensor) -> Tensor:
    return torch.cat([images.flatten(), logits.flatten()])


def _victims_together(
    model: SharedModel, method: Method, sample: Tensor, factored: Sequence[str]
) -> int:
    """Return how many victims to attack side by side.

    On a CPU the gradients of all runs should stay in its cache, on a GPU they should fill it.

    Args:
        sample: the first images of some run.
        factored: layers whose gradients are never formed.
    """
    state = method.optimiser.floats(sample.numel(), method.steps)
    factors = {f"{layer}.weight" for layer in factored}
    gradients = sum(p.numel() for name, p in model.named_parameters() if name not in factors)
    cached, held = (CACHED, HELD) if sample.device.type == "cpu" else (HELD, HELD)
    return max(1, min(cached // (4 * gradients), held // (4 * state)) // method.runs)


CACHED = 8 * 2**20
"""Bytes of gradients worked on at once on a CPU."""

HELD = 2**30
"""Bytes of gradients, or of the optimiser's state, held at once on any device."""
