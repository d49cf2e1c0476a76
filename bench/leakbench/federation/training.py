"""Federated training of the shared model by synchronous SGD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from leakbench.base.seeds import generator_for
from leakbench.data.images import to_images
from leakbench.federation.client import Client, Compute, gradient
from leakbench.federation.shared_model import SharedModel


@dataclass(frozen=True)
class ClientData:
    """The data of one client: images uint8 (m, 3, size, size) and main-task classes (m,)."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def train(
    model: SharedModel,
    clients: Sequence[ClientData],
    rounds: range,
    learning_rate: float,
    client_batch: int,
    seed: int,
    compute: Compute = gradient,
) -> None:
    """Run rounds of synchronous SGD, W ← W − η Σ_k (m_k/M) g_k, on `model` in place.

    In each round every client k, which has m_k of the M individuals, sends its update g_k for a
    random batch of its data. The batch depends only on `seed`, the round and the client, so that
    training can stop at any round and continue later with the same result.

    Args:
        rounds: the rounds to run, e.g. `range(0, 100)` and then `range(100, 200)`.
        compute: computes g_k; without a defense, the gradient of the mean cross-entropy.
    """
    device = next(model.parameters()).device
    total = sum(len(client.labels) for client in clients)
    model.train()
    for number in rounds:
        aggregate = [torch.zeros_like(parameter) for parameter in model.parameters()]
        for k, client in enumerate(clients):
            size = len(client.labels)
            generator = generator_for("training batch", seed, number, k)
            rows = torch.randperm(size, generator=generator)[:client_batch].numpy()
            update = compute(
                Client(
                    model=model,
                    images=to_images(client.images[rows], device),
                    labels=torch.from_numpy(client.labels[rows]).to(device),
                    learning_rate=learning_rate,
                    generator=generator_for("training defense", seed, number, k),
                )
            )
            for summed, value in zip(aggregate, update.values(), strict=True):
                summed.add_(value, alpha=size / total)
        with torch.no_grad():
            for parameter, summed in zip(model.parameters(), aggregate, strict=True):
                parameter.sub_(summed, alpha=learning_rate)
    model.eval()
