"""The training of a setup's shared model, cached at checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from leakbench.base.cache import cached_tensors, is_cached, locked, stored_tensors
from leakbench.base.plugins import PluginSpec, parameters_of
from leakbench.base.registry import DEFENSES, MODELS
from leakbench.base.seeds import digest, seed_for
from leakbench.data.dataset import Individuals
from leakbench.data.split import Split
from leakbench.experiments.cell import Setup
from leakbench.federation.client import Compute, gradient
from leakbench.federation.defense import Defense
from leakbench.federation.shared_model import (
    Architecture,
    SharedModel,
)
from leakbench.federation.training import ClientData, train


def is_trained(setup: Setup, data: str, device: str, defense: PluginSpec | None = None) -> bool:
    """Whether the weights after a setup's training, perhaps under a defense, are in the cache.

    Args:
        data: the fingerprint of the clients' data set.
    """
    under = None if defense is None else defense.build(DEFENSES)
    run = training_run(setup, data, device, under)
    return is_cached(_weights(run, setup.rounds))


def trained_model(
    setup: Setup,
    individuals: Individuals,
    split: Split,
    device: str,
    on_status: Callable[[str], None],
    defense: Defense | None = None,
) -> SharedModel:
    """Return the shared model after `setup.rounds`, trained from the latest cached checkpoint on.

    Args:
        on_status: called with a short description of each long step.
        defense: that clients train under, if any.

    Raises:
        UsageError: the model does not fit the image size or the split.
        WriteError: the cache cannot be written to, or the disk is full.
    """
    architecture: Architecture = setup.spec("model").build(MODELS)
    architecture.check(setup.image_size, setup.split)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("weights", setup.training_seed))
        model = architecture.build(split.classes, setup.image_size, setup.split).to(device)
    run = training_run(setup, individuals.fingerprint, device, defense)
    stops = _checkpoints(setup.rounds)
    with locked(run):
        reached = _load_latest(model, run, stops)
        remaining = [stop for stop in stops if reached is None or stop > reached]
        # Copies of all clients' images, which a model from the cache does not need.
        clients = _client_data(individuals, split) if remaining else []
        under = f" under {defense.name}" if defense else ""
        compute: Compute = defense.protect(gradient) if defense else gradient
        start = reached or 0
        for stop in remaining:
            if stop > start:
                on_status(
                    f"training {setup.model} for {setup.main_task}{under}: round {start} of "
                    f"{setup.rounds}"
                )
                train(
                    model,
                    clients,
                    range(start, stop),
                    setup.learning_rate,
                    setup.client_batch,
                    setup.training_seed,
                    compute,
                )
            model.load_state_dict(cached_tensors(_weights(run, stop), model.state_dict))
            start = stop
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def training_run(setup: Setup, data: str, device: str, defense: Defense | None = None) -> str:
    """Return the path in the cache of the weights of a training.

    Args:
        data: the fingerprint of the clients' data set.
    """
    key = setup.training_key(data)
    if defense is not None:
        key = digest("under", key, defense.name, parameters_of(defense))[:24]
    # Rounding differs between devices, so that each has its own weights.
    return f"models/{key}-{torch.device(device).type}"


def _weights(run: str, rounds: int) -> str:
    """Return the path in the cache of the weights after some rounds of a training."""
    return f"{run}/round-{rounds:06d}"


def _checkpoints(rounds: int) -> list[int]:
    """Return the rounds at which weights are cached: 0, every `CHECKPOINT_EVERY`, and the last."""
    return sorted({*range(0, rounds, CHECKPOINT_EVERY), rounds})


CHECKPOINT_EVERY = 500
"""Rounds after which weights are kept, so that a killed training loses no more than these."""


def _load_latest(model: SharedModel, run: str, stops: Sequence[int]) -> int | None:
    """Load the latest cached weights of a training; return their round, or None if there are none.

    A damaged checkpoint does not count: the training goes on from the one before.
    """
    for stop in reversed(stops):
        if (weights := stored_tensors(_weights(run, stop))) is not None:
            model.load_state_dict(weights)
            return stop
    return None


def _client_data(individuals: Individuals, split: Split) -> list[ClientData]:
    """Return each client's images and labels, copied into memory."""
    return [
        ClientData(np.array(individuals.images[rows]), split.labels[rows]) for rows in split.clients
    ]
