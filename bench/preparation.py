"""The work that many cells share: loading, splitting, training, D_aux's features and f_p.

Each step is cached under a key of everything that shaped it, so that it is done once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.cache import cache_folder, cached_tensors
from bench.cells import Setup
from bench.data import DataSet, Individuals
from bench.errors import UsageError
from bench.federation import ClientData, main_task_accuracy, to_images, train
from bench.models import Architecture, SharedModel, deep_features
from bench.plugins import build
from bench.property_model import PropertyModel, fit_property_model
from bench.registry import DATASETS, MODELS
from bench.seeds import digest, seed_for
from bench.split import Split, split_individuals
from bench.threat import Auxiliary, Server


@dataclass(frozen=True)
class Prepared:
    """A setup made real.

    Attributes:
        setup: its description.
        individuals: the whole data set.
        split: who is client, auxiliary, victim.
        server: all that the server could know; attacks get what their cell grants.
        main_task: accuracy on the victims' images and share of the most frequent class.
        device: where the server's tensors are.
    """

    setup: Setup
    individuals: Individuals
    split: Split
    server: Server
    main_task: dict[str, float]
    device: str


def load_individuals(setup: Setup, data_root: Path | None) -> Individuals:
    """Return the setup's data set.

    Raises:
        UsageError: it is unknown, malformed or not there.
    """
    dataset: DataSet = build(DATASETS, setup.dataset, setup.dataset_parameters)
    folder = type(dataset).folder
    if folder is None:
        return dataset.load(None, setup.image_size)
    if data_root is None or not (data_root / folder).is_dir():
        where = f"{data_root / folder} not found" if data_root else "no --data-root given"
        raise UsageError(
            f"data set {setup.dataset!r} needs real data: {where}; put {type(dataset).source} into "
            f"DIR/{folder} and pass --data-root DIR, or run on the embedded default with "
            f"--set dataset=synthetic"
        )
    return dataset.load(data_root, setup.image_size)


def prepare(
    setup: Setup, data_root: Path | None, device: str, say: Callable[[str], None]
) -> Prepared:
    """Do, or find in the cache, all the work that cells of this setup share.

    Args:
        say: told in a few words what is being done.

    Raises:
        UsageError: data, main task, properties, model or split are not as they must be.
    """
    say(f"loading {setup.dataset}")
    individuals = load_individuals(setup, data_root)
    split = split_individuals(
        individuals,
        setup.main_task,
        setup.clients,
        setup.auxiliary_share,
        setup.victim_share,
        setup.seed,
    )
    properties = {name: individuals.attribute(name, "property") for name in setup.properties}
    model = _trained(setup, individuals, split, device, say)
    say("reading D_aux")
    server = Server(
        classes=split.classes,
        image_shape=(3, setup.image_size, setup.image_size),
        properties=setup.properties,
        model=model,
        auxiliary=_auxiliary(setup, individuals, split, properties, model, device),
    )
    return Prepared(
        setup=setup,
        individuals=individuals,
        split=split,
        server=server,
        main_task=main_task_accuracy(
            model,
            to_images(individuals.images[split.victims], device),
            torch.from_numpy(split.labels[split.victims]).to(device),
        ),
        device=device,
    )


def _trained(
    setup: Setup,
    individuals: Individuals,
    split: Split,
    device: str,
    say: Callable[[str], None],
) -> SharedModel:
    """Return the shared model after `setup.rounds`, going on from the latest cached checkpoint."""
    architecture: Architecture = build(MODELS, setup.model, setup.model_parameters)
    architecture.check(setup.image_size, setup.split)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("weights", setup.seed))
        model = architecture.build(split.classes, setup.image_size, setup.split)
    run = f"models/{setup.training_key(individuals.fingerprint)}"

    def train_on() -> dict[str, Tensor]:
        first = _latest_checkpoint(run, setup.rounds)
        if first:
            model.load_state_dict(cached_tensors(f"{run}/round-{first:06d}", dict))
        say(f"training {setup.model} for {setup.rounds - first} rounds")
        model.to(device)
        clients = [
            ClientData(np.array(individuals.images[rows]), split.labels[rows])
            for rows in split.clients
        ]
        train(
            model,
            clients,
            range(first, setup.rounds),
            setup.learning_rate,
            setup.client_batch,
            setup.seed,
        )
        return model.state_dict()

    model.load_state_dict(cached_tensors(f"{run}/round-{setup.rounds:06d}", train_on))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.to(device).eval()


def _latest_checkpoint(run: str, rounds: int) -> int:
    """Return the last cached round up to `rounds`; 0 if there is none."""
    found = (cache_folder() / run).glob("round-*.safetensors")
    numbers = [int(file.stem.removeprefix("round-")) for file in found]
    return max((number for number in numbers if number <= rounds), default=0)


def _auxiliary(
    setup: Setup,
    individuals: Individuals,
    split: Split,
    properties: dict[str, NDArray[np.bool_]],
    model: SharedModel,
    device: str,
) -> Auxiliary:
    """Return D_aux with its deep features and f_p."""
    rows = split.auxiliary
    images = to_images(individuals.images[rows], device)
    features = deep_features(model, images)
    present = {
        name: torch.from_numpy(values[rows]).to(device) for name, values in properties.items()
    }
    key = digest(
        "property model",
        PROPERTY_MODEL_VERSION,
        setup.training_key(individuals.fingerprint),
        setup.rounds,
        setup.properties,
    )
    fitted = cached_tensors(
        f"property-models/{key[:24]}",
        lambda: fit_property_model(
            features, present, individuals.identities[rows], seed_for("f_p", setup.seed)
        ).tensors(),
    )
    return Auxiliary(
        images=images,
        labels=torch.from_numpy(split.labels[rows]).to(device),
        features=features,
        properties=present,
        property_model=PropertyModel.from_tensors(setup.properties, fitted, torch.device(device)),
    )


PROPERTY_MODEL_VERSION = 1
"""Raised when fitting f_p gives other numbers for the same D_aux."""
