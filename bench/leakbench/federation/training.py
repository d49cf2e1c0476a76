"""Federated training of the shared model, by synchronous SGD or federated averaging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakbench.base.choices import Augmentation
from leakbench.base.errors import UsageError
from leakbench.base.seeds import generator_for
from leakbench.data.images import to_images
from leakbench.federation.augmentation import augmented
from leakbench.federation.client import Client, Compute, Update, gradient
from leakbench.federation.server_optimiser import LearningRate, ServerOptimiser
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
    learning_rate: float | LearningRate,
    client_batch: int,
    seed: int,
    compute: Compute = gradient,
    *,
    optimiser: ServerOptimiser | None = None,
    augmentation: Augmentation = "none",
    may_diverge: bool = False,
) -> None:
    """Run rounds of training, W ← W − η Σ_k (m_k/M) g_k, on `model` in place.

    In each round every client k, which has m_k of the M individuals, sends its update g_k for
    `client_batch` of its individuals, drawn at random (all of them, if it has no more). Batch and
    augmentation depend only on `seed`, the round and the client, so that training can stop at any
    round and continue later with the same result. The model runs in training mode: clients' batches
    move the running statistics of BatchNorm, one client after another.

    Args:
        rounds: the rounds to run, e.g. `range(0, 100)` and then `range(100, 200)`.
        compute: computes g_k. Without a defense the gradient of the mean cross-entropy, or, in
            federated averaging, `local_steps` of it: the change of weights divided by −η.
        optimiser: of the server, which holds the momentum; plain SGD if None.
        augmentation: of each client's batch, once a round.
        may_diverge: whether weights that are not finite are accepted.

    Raises:
        UsageError: the weights are not finite after a round; or BatchNorm gets a single value per
            channel, of one individual.
    """
    rate = (
        learning_rate
        if isinstance(learning_rate, LearningRate)
        else LearningRate(initial=learning_rate)
    )
    optimiser = optimiser or ServerOptimiser(model)
    model.train()
    for number in rounds:
        # Handed over: what stayed of a round would keep the heap from shrinking in the next.
        optimiser.step(
            _mean_update(
                model, clients, number, rate.at(number), client_batch, seed, compute, augmentation
            ),
            rate.at(number),
        )
        if not may_diverge:
            check_finite(model, number, rate.at(number))
    model.eval()


def _mean_update(
    model: SharedModel,
    clients: Sequence[ClientData],
    number: int,
    learning_rate: float,
    client_batch: int,
    seed: int,
    compute: Compute,
    augmentation: Augmentation,
) -> list[Tensor]:
    """Return Σ_k (m_k/M) g_k of round `number`, in the order of the parameters; see `train`."""
    device = next(model.parameters()).device
    total = sum(len(client.labels) for client in clients)
    mean = [torch.zeros_like(parameter) for parameter in model.parameters()]
    for k, client in enumerate(clients):
        size = len(client.labels)
        generator = generator_for("training batch", seed, number, k)
        rows = torch.randperm(size, generator=generator)[:client_batch].numpy()
        augmenting = generator_for("training augmentation", seed, number, k)
        images = augmented(to_images(client.images[rows], device), augmentation, augmenting)
        update = _computed(
            compute,
            Client(
                model=model,
                images=images,
                labels=torch.from_numpy(client.labels[rows]).to(device),
                learning_rate=learning_rate,
                generator=generator_for("training defense", seed, number, k),
            ),
        )
        for summed, value in zip(mean, update.values(), strict=True):
            summed.add_(value, alpha=size / total)
    return mean


def _computed(compute: Compute, client: Client) -> Update:
    try:
        return compute(client)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise UsageError(
            "BatchNorm cannot normalise one individual by itself, and a client takes a step with "
            "one; choose `client_batch` and `local_batch` so that no step has a single individual"
        ) from error


def check_finite(
    model: SharedModel, number: int, learning_rate: float, images: Tensor | None = None
) -> None:
    """Refuse weights or running statistics that are not finite after a round.

    Args:
        images: of clients, shape (n, 3, size, size), for which the model, in evaluation mode, must
            have finite outputs too: weights may be finite and still too large.

    Raises:
        UsageError: names the round and the learning rate.
    """
    state = [each for each in model.state_dict().values() if each.is_floating_point()]
    if images is not None:
        with torch.no_grad():
            state.append(model(images))
    # One answer from the device, not one for each tensor.
    if not bool(torch.stack([torch.isfinite(each).all() for each in state]).all()):
        raise UsageError(
            f"the training diverged: weights or outputs are not finite after round {number + 1} "
            f"at the learning rate {learning_rate:g}; lower `learning_rate`"
        )
