"""The training of a setup's shared model, cached at checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from leakbench.base.cache import cached_tensors, is_cached, locked, stored_tensors
from leakbench.base.plugins import PluginSpec, parameters_of
from leakbench.base.registry import DEFENSES, MODELS
from leakbench.base.seeds import digest, seed_for
from leakbench.data.dataset import Individuals
from leakbench.data.images import to_images
from leakbench.data.split import Split
from leakbench.experiments.cell import Setup
from leakbench.federation.client import Compute, gradient
from leakbench.federation.defense import Defense
from leakbench.federation.defenses.none import NoDefense
from leakbench.federation.protocol import under_protocol
from leakbench.federation.server_optimiser import LearningRate, ServerOptimiser
from leakbench.federation.shared_model import (
    Architecture,
    SharedModel,
)
from leakbench.federation.training import ClientData, check_finite, train


def is_trained(
    setup: Setup,
    data: str,
    device: str,
    defense: PluginSpec | None = None,
    central: bool = False,
) -> bool:
    """Whether the weights after a setup's training are in the cache.

    Args:
        data: the fingerprint of the clients' data set.
        defense, central: see `trained_model`.
    """
    under = None if defense is None else defense.build(DEFENSES)
    run = training_run(setup, data, device, under, central)
    return is_cached(_weights(run, setup.rounds))


def trained_model(
    setup: Setup,
    individuals: Individuals,
    split: Split,
    device: str,
    on_status: Callable[[str], None],
    defense: Defense | None = None,
    central: bool = False,
) -> SharedModel:
    """Return the shared model after `setup.rounds`, trained from the latest cached checkpoint on.

    Args:
        on_status: called with a short description of each long step.
        defense: that clients train under, if any; their model may diverge.
        central: whether all clients' data are those of a single client, who takes as many images in
            a round as all of them together.

    Raises:
        UsageError: the model does not fit the image size or the split, or the training diverges.
        WriteError: the cache cannot be written to, or the disk is full.
    """
    model = initial_model(setup, split.classes).to(device)
    run = training_run(setup, individuals.fingerprint, device, defense, central)
    stops = _checkpoints(setup.rounds)
    rate = learning_rate_of(setup)
    optimiser = ServerOptimiser(model, setup.momentum, setup.weight_decay)
    with locked(run):
        reached = _load_latest(model, optimiser, run, stops)
        remaining = [stop for stop in stops if reached is None or stop > reached]
        # Copies of all clients' images, which a model from the cache does not need.
        clients = _client_data(individuals, split, central) if remaining else []
        compute = _computation(setup, defense)
        how = f" under {defense.name}" if defense else " centrally" if central else ""
        of_each = [min(setup.client_batch, len(rows)) for rows in split.clients]
        of_round = sum(of_each) if central else setup.client_batch
        start = reached or 0
        for stop in remaining:
            for rounds in _parts(range(start, stop), setup.rounds):
                on_status(
                    f"round {rounds.start} of {setup.rounds}: training {setup.model} for "
                    f"{setup.main_task}{how}"
                )
                train(
                    model,
                    clients,
                    rounds,
                    rate,
                    of_round,
                    setup.training_seed,
                    compute,
                    optimiser=optimiser,
                    augmentation=setup.augmentation,
                    may_diverge=defense is not None,
                )
            _load(model, optimiser, cached_tensors(_weights(run, stop), _state(model, optimiser)))
            start = stop
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    model.eval()
    if defense is None and setup.rounds:
        # The weights may come from a cache that was filled without this check.
        some = to_images(individuals.images[split.clients[0][:8]], device)
        check_finite(model, setup.rounds - 1, rate.at(setup.rounds - 1), some)
    return model


def initial_model(setup: Setup, classes: int) -> SharedModel:
    """Return a setup's shared model before its training, with pretrained weights if it has any.

    Raises:
        UsageError: the model does not fit the image size or the split, or its weights do not fit.
    """
    architecture: Architecture = setup.spec("model").build(MODELS)
    architecture.check(setup.image_size, setup.split)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("weights", setup.training_seed))
        return architecture.build(classes, setup.image_size, setup.split)


def learning_rate_of(setup: Setup) -> LearningRate:
    """Return η by round, up to the attacked one."""
    is_constant = setup.schedule == "constant"
    return LearningRate(
        initial=setup.learning_rate, attacked_round=None if is_constant else setup.rounds
    )


def _computation(setup: Setup, defense: Defense | None) -> Compute:
    """Return how clients compute their updates in training."""
    protocol = setup.protocol
    steps = None if protocol is None else protocol.build(DEFENSES)
    return under_protocol(steps, defense or NoDefense()).protect(gradient)


def training_run(
    setup: Setup,
    data: str,
    device: str,
    defense: Defense | None = None,
    central: bool = False,
) -> str:
    """Return the path in the cache of the weights of a training.

    Args:
        data: the fingerprint of the clients' data set.
        defense, central: see `trained_model`.
    """
    key = setup.training_key(data)
    if central:
        key = digest("central", key)[:24]
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


def _parts(rounds: range, whole: int) -> list[range]:
    """Return rounds in parts after which progress is said: tenths of the whole training.

    >>> _parts(range(0, 40), 400), _parts(range(500, 505), 505)
    ([range(0, 40)], [range(500, 505)])
    >>> _parts(range(0, 90), 240)
    [range(0, 25), range(25, 50), range(50, 75), range(75, 90)]
    """
    length = max(SAID_EVERY, whole // 10)
    return [rounds[begin : begin + length] for begin in range(0, len(rounds), length)]


SAID_EVERY = 25
"""The fewest rounds after which progress is said."""

CHECKPOINT_EVERY = 500
"""Rounds after which weights are kept, so that a killed training loses no more than these."""


def _load_latest(
    model: SharedModel, optimiser: ServerOptimiser, run: str, stops: Sequence[int]
) -> int | None:
    """Load the latest cached weights of a training; return their round, or None if there are none.

    A damaged checkpoint does not count: the training goes on from the one before.
    """
    for stop in reversed(stops):
        if (stored := stored_tensors(_weights(run, stop))) is not None:
            _load(model, optimiser, stored)
            return stop
    return None


def _state(model: SharedModel, optimiser: ServerOptimiser) -> Callable[[], dict[str, Tensor]]:
    """Return what a checkpoint holds: the model's state, and momentum if the optimiser has any."""
    return lambda: {**model.state_dict(), **optimiser.state()}


def _load(model: SharedModel, optimiser: ServerOptimiser, stored: Mapping[str, Tensor]) -> None:
    momentum = {n: tensor for n, tensor in stored.items() if n.startswith(optimiser.PREFIX)}
    model.load_state_dict({n: tensor for n, tensor in stored.items() if n not in momentum})
    optimiser.load(momentum)


def _client_data(individuals: Individuals, split: Split, central: bool) -> list[ClientData]:
    """Return each client's images and labels, copied into memory; all as one if central."""
    parts = [np.concatenate(split.clients)] if central else split.clients
    return [ClientData(np.array(individuals.images[rows]), split.labels[rows]) for rows in parts]
