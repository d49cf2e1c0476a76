"""Models, defenses and updates for tests of adaptive attacks."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.base.choices import Mode
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import Client, Compute, Update, gradient
from leakbench.federation.defense import Defense, Stage
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import SharedModel

CLASSES = 4


IMAGE = (3, 16, 16)


RATE = 0.5


@dataclass(frozen=True)
class Kept(Defense):
    """Keeps the largest entries of each tensor."""

    fraction: float

    def protect(self, compute: Compute) -> Compute:
        def protected(client: Client) -> Update:
            return {name: self._kept(value) for name, value in compute(client).items()}

        return protected

    def _kept(self, value: Tensor) -> Tensor:
        largest = value.abs().flatten().topk(max(1, round(self.fraction * value.numel()))).values
        return value * (value.abs() >= largest[-1])

    def reliability(self, update: Update, individuals: int) -> Mapping[str, Tensor]:
        return {name: (value != 0).to(value.dtype) for name, value in update.items()}


@dataclass(frozen=True)
class Steps(Defense):
    """FedAvg, by PyTorch's own optimiser; individuals are taken as they stand."""

    epochs: tuple[tuple[int, ...], ...]
    stage = Stage.STEPS

    def protect(self, compute: Compute) -> Compute:
        def protected(client: Client) -> Update:
            model = copy.deepcopy(client.model)
            optimiser = torch.optim.SGD(model.parameters(), client.learning_rate)
            for sizes in self.epochs:
                batches = (torch.split(t, list(sizes)) for t in (client.images, client.labels))
                for images, labels in zip(*batches, strict=True):
                    optimiser.zero_grad()
                    functional.cross_entropy(model(images), labels).backward()
                    optimiser.step()
            moved = dict(model.named_parameters())
            return {
                name: (before.detach() - moved[name].detach()) / client.learning_rate
                for name, before in client.model.named_parameters()
            }

        return protected

    def local_epochs(self, individuals: int) -> tuple[tuple[int, ...], ...]:
        assert all(sum(sizes) == individuals for sizes in self.epochs)
        return self.epochs


@dataclass(frozen=True)
class Squashed(Defense):
    """Sends a smooth sign."""

    def protect(self, compute: Compute) -> Compute:
        return lambda client: dict(self.surrogate(compute(client)))

    def surrogate(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {name: torch.tanh(100 * value) for name, value in gradients.items()}


def model_of(mode: Mode = "eval", batch_norm: bool = False) -> SharedModel:
    """A model in double precision whose BatchNorm layers have seen some images."""
    torch.manual_seed(0)
    model = SmallCNN(width=4, batch_norm=batch_norm).build(CLASSES, 16, "convolutions").double()
    model(torch.rand(8, *IMAGE, dtype=torch.float64))
    return in_mode(model.eval(), mode)


def draw(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64)


def sent(
    defense: Defense, model: SharedModel, images: Tensor, labels: Tensor, rate: float = RATE
) -> Update:
    client = Client(model, images, labels, rate, torch.Generator().manual_seed(0))
    return defense.protect(gradient)(client)


def batch(size: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    return draw(size, *IMAGE, seed=seed), torch.arange(size) % CLASSES
