"""Local steps of federated averaging (FedAvg)."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from leakbench.base.registry import register_defense
from leakbench.federation.client import Client, Compute, Update
from leakbench.federation.defense import Defense, Stage
from leakbench.federation.shared_model import SharedModel


@register_defense("local_steps")
@dataclass(frozen=True, kw_only=True)
class LocalSteps(Defense):
    """The client takes several SGD steps from the shared weights and sends the change.

    It sends (w_0 − w_T)/η, the sum of the T gradients of its steps; η times this is the change of
    weights that federated averaging averages. η is the setup's learning rate.

    Attributes:
        epochs: passes over the batch.
        batch: individuals per step, shuffled in each epoch; none means the whole batch.
    """

    reference: ClassVar[str] = (
        "McMahan, Moore, Ramage, Hampson, Agüera y Arcas 2017, Communication-Efficient Learning of "
        "Deep Networks from Decentralized Data (AISTATS), algorithm 1"
    )
    stage: ClassVar[Stage] = Stage.STEPS
    example_parameters: ClassVar = {"epochs": 2, "batch": 2}

    epochs: Annotated[int, Field(gt=0, le=10_000)] = 1
    batch: Annotated[int, Field(gt=0)] | None = None

    def protect(self, compute: Compute) -> Compute:
        """Return a computation of several local steps, each by `compute`."""

        def protected(client: Client) -> Update:
            model = _own_copy(client.model)
            total: Update = {}
            for rows in self._steps(client):
                step = compute(
                    replace(
                        client, model=model, images=client.images[rows], labels=client.labels[rows]
                    )
                )
                total = {n: total[n] + g for n, g in step.items()} if total else dict(step)
                with torch.no_grad():
                    for name, parameter in model.named_parameters():
                        parameter.sub_(step[name], alpha=client.learning_rate)
            return total

        return protected

    def local_epochs(self, individuals: int) -> Sequence[Sequence[int]]:
        """Return the sizes of the mini-batches of each epoch, one step each."""
        whole, rest = divmod(individuals, self.batch or individuals)
        sizes = [self.batch or individuals] * whole + [rest] * (rest > 0)
        return [sizes] * self.epochs

    def _steps(self, client: Client) -> Iterator[Tensor]:
        """Yield the rows of each step's individuals."""
        individuals = len(client.labels)
        for sizes in self.local_epochs(individuals):
            # A single batch needs no random order.
            rows = (
                torch.randperm(individuals, generator=client.generator)
                if len(sizes) > 1
                else torch.arange(individuals)
            )
            yield from torch.split(rows.to(client.labels.device), list(sizes))

    @property
    def uses(self) -> int:
        """Number of gradients in which each individual of the batch is used."""
        return self.epochs

    def rescale(self, update: Update, individuals: int) -> tuple[Update, int]:
        """Return the sum of T updates, each with independent noise, divided by √T."""
        steps = [size for sizes in self.local_epochs(individuals) for size in sizes]
        return {name: value / len(steps) ** 0.5 for name, value in update.items()}, steps[0]


def _own_copy(model: SharedModel) -> SharedModel:
    """Return a copy with separate weights and shared running statistics, which training updates."""
    shared = {id(buffer): buffer for buffer in model.buffers()}
    return copy.deepcopy(model, shared)
