"""Updates that clients of a known defense would send for the dummies of R runs, differentiably.

The adversary knows neither in which order a client takes its individuals nor, under secure
aggregation, which individual belongs to which client. Each run draws both once. Of mini-batches it
takes the mean over its order and the reverse, in which each individual comes before each other one
once: to first order in η that is the mean over all orders.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from leakbench.attacks.matching.dummy_gradients import dummy_gradients
from leakbench.attacks.matching.layer_rules import Weights
from leakbench.attacks.matching.priors import Statistics
from leakbench.attacks.matching.runs import each_tensor
from leakbench.attacks.matching.second_derivatives import twice_differentiable
from leakbench.federation.batch_norm import normalises_by_batch, recorded_statistics
from leakbench.federation.defense import Defense
from leakbench.federation.shared_model import SharedModel

Surrogate = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
"""Of gradients, shape (R, *parameter's)."""


@dataclass(frozen=True)
class Simulation:
    """How dummies become an update where that is more than one gradient of them all.

    Attributes:
        of_individuals: what a client takes of each individual's gradient; None if it takes the
            batch's as it is.
        surrogate: what one client sends for its gradient, or for the sum of its steps'.
        clients: whose updates the server sees as their mean.
        epochs: sizes of the mini-batches of each, in which every client takes a step of SGD.
        learning_rate: η of the steps.
    """

    of_individuals: Surrogate | None
    surrogate: Surrogate
    clients: int
    epochs: tuple[tuple[int, ...], ...]
    learning_rate: float

    @property
    def steps(self) -> int:
        """How many steps a client takes."""
        return sum(map(len, self.epochs))

    @property
    def gradients(self) -> int:
        """How many gradients a simulated update takes."""
        each = 1 if self.of_individuals is None else max(map(max, self.epochs))
        return each * self.clients * self.steps * (2 if self._in_batches else 1)

    @property
    def _in_batches(self) -> bool:
        return any(len(sizes) > 1 for sizes in self.epochs)

    def shared_out(self, individuals: int, generator: torch.Generator) -> Tensor:
        """Draw each client's individuals in its order, rows of (clients, individuals / clients)."""
        return torch.randperm(individuals, generator=generator).view(self.clients, -1)

    def updates(
        self,
        model: SharedModel,
        pixels: Tensor,
        targets: Tensor,
        shares: Tensor,
        layers: Sequence[str] | None,
        with_statistics: bool,
        weights: Weights,
    ) -> tuple[dict[str, Tensor], Statistics]:
        """Return what clients would send for each run's dummies, as `dummy_gradients` does.

        Args:
            pixels: shape (R, B, 3, size, size).
            targets: classes, shape (R, B), or class probabilities, shape (R, B, K).
            shares: each client's individuals in its order, shape (R, clients, B / clients).
            layers, with_statistics, weights: as `dummy_gradients` takes them.
        """
        runs = torch.arange(len(pixels), device=pixels.device)[:, None, None]
        # Clients side by side as if each were a run: (R · clients, B / clients, ...).
        images, labels = (given[runs, shares].flatten(0, 1) for given in (pixels, targets))
        if self.steps == 1:
            sent = self._one_step(model, weights, images, labels, layers)
        else:
            sent = self._walked(model, weights, images, labels)
        mean = {
            name: update.view(-1, self.clients, *update.shape[1:]).mean(1)
            for name, update in self.surrogate(sent).items()
        }
        return mean, _statistics(model, weights, pixels) if with_statistics else {}

    def _one_step(
        self,
        model: SharedModel,
        weights: Weights,
        images: Tensor,
        labels: Tensor,
        layers: Sequence[str] | None,
    ) -> Mapping[str, Tensor]:
        """Return each client's gradient."""
        if self.of_individuals is None:
            return dummy_gradients(model, images, labels, layers, weights=weights)[0]
        # Individuals side by side as if each were a run.
        alone, of_them = (given.flatten(0, 1)[:, None] for given in (images, labels))
        gradients, _ = dummy_gradients(model, alone, of_them, layers, weights=weights)
        return {
            name: taken.view(*images.shape[:2], *taken.shape[1:]).mean(1)
            for name, taken in self.of_individuals(gradients).items()
        }

    def _walked(
        self, model: SharedModel, weights: Weights, images: Tensor, labels: Tensor
    ) -> dict[str, Tensor]:
        """Return the sum of each client's gradients along its steps."""
        parameters = {name: weights[name] for name, _ in model.named_parameters()}
        others = {name: weights[name] for name in weights if name not in parameters}
        dtype = _dtype(weights)

        def loss(moved: Weights, images: Tensor, labels: Tensor) -> Tensor:
            computing = {name: value.to(dtype) for name, value in moved.items()}
            with twice_differentiable(mapped=True):
                logits = functional_call(model, {**computing, **others}, (images.to(dtype),))
            return functional.cross_entropy(logits.to(images.dtype), labels)

        def gradient(moved: Weights, images: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
            if self.of_individuals is None:
                found: Mapping[str, Tensor] = grad(loss)(moved, images, labels)
                return found
            each = vmap(grad(loss), in_dims=(None, 0, 0))(moved, images[:, None], labels[:, None])
            return {name: taken.mean(0) for name, taken in self.of_individuals(each).items()}

        def walk(sizes: list[int], images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            start = {name: value.to(images.dtype) for name, value in parameters.items()}
            sums = {name: torch.zeros_like(value) for name, value in start.items()}
            batches = (torch.split(given, sizes) for given in (images, labels))
            for some, of_some in zip(*batches, strict=True):
                moved = {name: start[name] - self.learning_rate * sums[name] for name in start}
                step = gradient(moved, some, of_some)
                sums = {name: sums[name] + step[name] for name in sums}
            return sums

        def walked(sizes: list[int], *batch: Tensor) -> dict[str, Tensor]:
            epochs = (torch.cat([given] * len(self.epochs), 1) for given in batch)
            found: dict[str, Tensor] = vmap(partial(walk, sizes))(*epochs)
            return found

        sizes = [size for epoch in self.epochs for size in epoch]
        forth = walked(sizes, images, labels)
        if not self._in_batches:
            return forth
        reverse = [size for epoch in self.epochs for size in reversed(epoch)]
        back = walked(reverse, images.flip(1), labels.flip(1))
        return {name: (forth[name] + back[name]) / 2 for name in forth}


def simulation_of(
    defense: Defense, model: SharedModel, individuals: int, learning_rate: float
) -> Simulation | None:
    """Return how to simulate a defense; None where its update is the gradient of all individuals.

    Args:
        model: as clients run it, see `leakbench.federation.batch_norm.in_mode`.
        individuals: behind one update.
    """
    own = defense.client_part()
    each = individuals // defense.clients
    epochs = ((each,),) if own is None else own.local_epochs(each)
    probe = {name: parameter.detach()[None] for name, parameter in model.named_parameters()}
    each_its_own = own is not None and own.surrogate_of_individuals(probe) is not probe
    simulation = Simulation(
        of_individuals=own.surrogate_of_individuals if own is not None and each_its_own else None,
        surrogate=_as_it_is if own is None else own.surrogate,
        clients=defense.clients,
        epochs=tuple(map(tuple, epochs)),
        learning_rate=learning_rate,
    )
    as_one_batch = defense.clients == 1 or not normalises_by_batch(model)
    as_it_is = not each_its_own and simulation.surrogate(probe) is probe and as_one_batch
    return None if simulation.steps == 1 and as_it_is else simulation


def _as_it_is(gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    return gradients


def _statistics(model: SharedModel, weights: Weights, pixels: Tensor) -> Statistics:
    """Return what BatchNorm layers see of each run's dummies, all of them as one batch."""

    def seen(images: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        with recorded_statistics(model) as statistics:
            functional_call(model, dict(weights), (images,))
        return statistics

    found: Statistics = each_tensor(
        vmap(seen)(pixels.to(_dtype(weights))), lambda moment: moment.to(pixels.dtype)
    )
    return found


def _dtype(weights: Weights) -> torch.dtype:
    return next(weight.dtype for weight in weights.values() if weight.is_floating_point())
