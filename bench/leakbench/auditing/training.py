"""Training of the user's model under a defense, to measure the defense's utility cost."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from leakbench.auditing.labelled_images import kind_of
from leakbench.auditing.model_splitting import SplitModel
from leakbench.base.errors import UsageError
from leakbench.base.limits import MOST
from leakbench.base.seeds import generator_for, seed_for
from leakbench.federation.client import gradient
from leakbench.federation.defense import Defense
from leakbench.federation.shared_model import main_task_hits
from leakbench.federation.training import ClientData, train


class Training(Protocol):
    """Trains the user's model from scratch under a defense, and tests it.

    Returns whether the trained model gives each held-out image its class: the same images in the
    same order for every defense. The defense None trains without one.
    """

    def __call__(self, defense: Defense | None) -> Sequence[bool]:
        """Train, and test."""
        ...


@dataclass(frozen=True, kw_only=True)
class FederatedTraining:
    """Synchronous SGD over clients, from newly initialised weights.

    Attributes:
        images: of the clients, in [0, 1], shape (n, channels, height, width).
        labels: classes, shape (n,).
        test_images, test_labels: held out.
        rounds, clients, client_batch, learning_rate: of the training.
        seed: of weights, batches and the defense's noise.
    """

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    rounds: int = 300
    clients: int = 8
    client_batch: int = 8
    learning_rate: float = 0.1
    seed: int = 0

    def of(self, model: SplitModel) -> Training:
        """Return the training of a model of this architecture.

        Raises:
            UsageError: the number of rounds is none that can be trained, the data are no images, a
                layer cannot be initialised, a label is no class of the model, or there are fewer
                images than clients.
        """
        if not 0 < self.rounds <= MOST:
            raise UsageError(f"rounds is {self.rounds}; give a number from 1 to {MOST}")
        if len(self.images) < self.clients:
            raise UsageError(
                f"{len(self.images)} training images are too few for {self.clients} clients"
            )
        if kind_of(self.images) != "images":
            raise UsageError(
                f"FederatedTraining trains on images, not on {kind_of(self.images)}; give "
                f"`training` a function that trains your model"
            )
        if bool(((self.labels < 0) | (self.labels >= model.classes)).any()):
            raise UsageError(
                f"the training data have labels that are no class of the model's {model.classes}"
            )
        start = _reinitialised(model, self.seed)
        device = next(model.parameters()).device

        def trained(defense: Defense | None) -> Sequence[bool]:
            fresh = copy.deepcopy(start).to(device)
            compute = gradient if defense is None else defense.protect(gradient)
            train(
                fresh,
                self._client_data(),
                range(self.rounds),
                self.learning_rate,
                self.client_batch,
                self.seed,
                compute,
                may_diverge=defense is not None,
            )
            hits = main_task_hits(
                fresh.eval(), self.test_images.to(device), self.test_labels.to(device)
            )
            return [bool(hit) for hit in hits.tolist()]

        return trained

    @property
    def smallest_client(self) -> int:
        """Individuals of the client that has the fewest."""
        return len(self.images) // self.clients

    def privacy(self, defense: Defense) -> tuple[float, float] | None:
        """Return ε and δ of a training under a defense; None if it has no such guarantee."""
        sampled = min(1.0, self.client_batch / self.smallest_client)
        delta = 1 / self.smallest_client
        epsilon = defense.epsilon(sampled, self.rounds, delta)
        return None if epsilon is None else (epsilon, delta)

    def _client_data(self) -> list[ClientData]:
        order = torch.randperm(
            len(self.images), generator=generator_for("training clients", self.seed)
        )
        pixels = (self.images * 255).round().to(torch.uint8)
        return [
            ClientData(pixels[rows].cpu().numpy(), self.labels[rows].cpu().numpy())
            for rows in order.tensor_split(self.clients)
        ]


def _reinitialised(model: SplitModel, seed: int) -> SplitModel:
    """Return a copy with newly initialised weights; frozen ones stay.

    Raises:
        UsageError: a layer has no `reset_parameters`, or is partly frozen.
    """
    fresh = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("weights", seed))
        for name, module in fresh.named_modules():
            if not list(module.parameters(recurse=False)):
                continue
            reset = getattr(module, "reset_parameters", None)
            frozen = isinstance(getattr(module, "weight", None), Tensor) and not isinstance(
                module.weight, nn.Parameter
            )
            if reset is None or frozen:
                raise UsageError(
                    f"the weights of {name!r} cannot be initialised (no `reset_parameters`, or "
                    f"partly frozen), so that no training can start; give `training` a function"
                )
            reset()
    return fresh
