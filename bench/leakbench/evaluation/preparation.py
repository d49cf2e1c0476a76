"""The work that many cells share: loading, splitting, training, D_aux's features and f_p.

Images, weights and f_p are cached under keys of everything that shaped them, and so made once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakbench.base.cache import cached_tensors, is_cached, locked, stored_tensors
from leakbench.base.choices import PropertyModelKind
from leakbench.base.errors import UsageError
from leakbench.base.plugins import PluginSpec, parameters_of
from leakbench.base.registry import DATASETS, DEFENSES, MODELS
from leakbench.base.seeds import digest, seed_for, tensor_digest
from leakbench.data.dataset import DataSet, Individuals
from leakbench.data.images import to_images
from leakbench.data.split import Split, split_individuals
from leakbench.evaluation.auxiliary import (
    at_most,
    auxiliary_of,
    check_properties,
    foreign_labels,
    other_people,
)
from leakbench.experiments.cell import PROPERTY_MODEL_VERSION, Setup
from leakbench.federation.client import Compute, gradient
from leakbench.federation.defense import Defense
from leakbench.federation.shared_model import (
    Architecture,
    SharedModel,
    deep_features,
    main_task_hits,
)
from leakbench.federation.training import ClientData, train
from leakbench.threat.property_models.logistic import (
    LogisticPropertyModel,
    check_both_classes,
    fit_logistic,
)
from leakbench.threat.property_models.validated import ValidatedPropertyModel, fit_validated
from leakbench.threat.server import Auxiliary, FeatureSpace, Server


@dataclass(frozen=True)
class EvaluationContext:
    """A setup made real.

    Attributes:
        setup: its description.
        individuals: the whole data set of clients and victims.
        split: who is client, auxiliary, victim.
        server: all that the server could know; attacks get what their cell grants.
        hits: whether the shared model gives each victim's image its class, shape (victims,).
        main_task: accuracy on the victims' images, share of the most frequent class, and share of
            D_aux that has a main-task label.
        fingerprint: of the data set, or of both; see `fingerprint`.
        device: where the server's tensors are.
    """

    setup: Setup
    individuals: Individuals
    split: Split
    server: Server
    hits: Tensor
    main_task: dict[str, float]
    fingerprint: str
    device: str


def load_individuals(setup: Setup, data_root: Path | None) -> Individuals:
    """Return the setup's data set.

    Raises:
        UsageError: it is unknown, malformed or not there.
    """
    dataset: DataSet = setup.spec("dataset").build(DATASETS)
    check_available(setup, data_root)
    return dataset.load(data_root, setup.image_size)


def load_auxiliary_individuals(setup: Setup, data_root: Path | None) -> Individuals | None:
    """Return the data set that D_aux comes from; None if it is the victims' own.

    Raises:
        UsageError: it is unknown, malformed or not there, or lacks one of the properties.
    """
    if not setup.auxiliary_dataset:
        return None
    dataset: DataSet = setup.spec("auxiliary_dataset").build(DATASETS)
    check_available(setup, data_root)
    individuals = dataset.load(data_root, setup.image_size)
    check_properties(individuals, setup.auxiliary_dataset, setup.properties)
    return individuals


def check_available(setup: Setup, data_root: Path | None) -> None:
    """Refuse a data set whose folder is not there.

    Raises:
        UsageError: says what to download, and how to do without.
    """
    for field in ("dataset", "auxiliary_dataset"):
        if name := getattr(setup, field):
            _check_folder(name, field, data_root)


def _check_folder(name: str, field: str, data_root: Path | None) -> None:
    dataset: type[DataSet] = DATASETS.get(name)
    if dataset.folder is not None and not (data_root and (data_root / dataset.folder).is_dir()):
        where = f"{data_root / dataset.folder} not found" if data_root else "no --data-root given"
        raise UsageError(
            f"data set {name!r} needs real data: {where}; put {dataset.source} into "
            f"DIR/{dataset.folder} and pass --data-root DIR, or run on the embedded default with "
            f"--set {field}=synthetic"
        )


def fingerprint(individuals: Individuals, auxiliary: Individuals | None) -> str:
    """Return the data set's fingerprint, joined by `+` to that of the one D_aux comes from."""
    return "+".join(each.fingerprint for each in (individuals, auxiliary) if each is not None)


def data_fingerprint(setup: Setup, data_root: Path | None) -> str:
    """Return the fingerprint of a setup's data.

    Raises:
        UsageError: a data set is not as it must be.
    """
    individuals = load_individuals(setup, data_root)
    return fingerprint(individuals, load_auxiliary_individuals(setup, data_root))


def prepare(
    setup: Setup, data_root: Path | None, device: str, say: Callable[[str], None]
) -> EvaluationContext:
    """Do, or find in the cache, all the work that cells of this setup share.

    Args:
        say: told in a few words what is being done.

    Raises:
        UsageError: data, main task, properties, model or split are not as they must be.
    """
    say(f"loading {setup.dataset}")
    individuals = load_individuals(setup, data_root)
    foreign = load_auxiliary_individuals(setup, data_root)
    split = _split(individuals, setup)
    for name in setup.properties:
        individuals.attribute(name, "property")
    auxiliary, rows = _auxiliary(setup, individuals, split, foreign, device)
    model = _trained(setup, individuals, split, device, say)
    say(f"reading D_aux of {setup.auxiliary_source}")
    data = fingerprint(individuals, foreign)
    weights = [tensor_digest(each) for each in model.state_dict().values()]
    trained = _training_run(setup, individuals.fingerprint, device)
    features = _features_of_auxiliary(
        model, auxiliary, digest(trained, weights, data, rows.tolist())
    )
    server = Server(
        classes=split.classes,
        image_shape=(3, setup.image_size, setup.image_size),
        properties=setup.properties,
        model=model,
        auxiliary=auxiliary,
        feature_space=feature_space(model, auxiliary, features, setup.property_model, setup.seed),
    )
    images, labels = labelled_victims(individuals, split, device)
    hits = main_task_hits(model, images, labels)
    return EvaluationContext(
        setup=setup,
        individuals=individuals,
        split=split,
        server=server,
        hits=hits,
        main_task={
            "accuracy": hits.float().mean().item(),
            "most_frequent_class": (torch.bincount(labels).max() / len(labels)).item(),
            "labelled_auxiliary": (auxiliary.labels >= 0).float().mean().item(),
        },
        fingerprint=data,
        device=device,
    )


def _split(individuals: Individuals, setup: Setup) -> Split:
    return split_individuals(
        individuals,
        setup.main_task,
        setup.clients,
        setup.auxiliary_share,
        setup.victim_share,
        setup.seed,
    )


def trained_under(
    defense: Defense, context: EvaluationContext, say: Callable[[str], None]
) -> SharedModel:
    """Return a model trained as long as the shared one, but under a defense; cached like it.

    Args:
        say: told in a few words what is being done.
    """
    setup, individuals, split = context.setup, context.individuals, context.split
    return _trained(setup, individuals, split, context.device, say, defense.client_part())


def train_under(
    setup: Setup,
    defense: PluginSpec,
    data_root: Path | None,
    device: str,
    say: Callable[[str], None],
) -> None:
    """Train a setup's model under a defense, for `trained_under` to find in the cache.

    Raises:
        UsageError: data, main task or model are not as they must be.
    """
    individuals = load_individuals(setup, data_root)
    split = _split(individuals, setup)
    _trained(setup, individuals, split, device, say, defense.build(DEFENSES))


def is_trained(setup: Setup, data: str, device: str, defense: PluginSpec | None = None) -> bool:
    """Whether the weights after a setup's training, perhaps under a defense, are in the cache.

    Args:
        data: the fingerprint of the clients' data set.
    """
    under = None if defense is None else defense.build(DEFENSES)
    run = _training_run(setup, data, device, under)
    return is_cached(_weights(run, setup.rounds))


def labelled_victims(individuals: Individuals, split: Split, device: str) -> tuple[Tensor, Tensor]:
    """Return all victims' images, (n, 3, size, size), and main-task classes, (n,)."""
    return (
        to_images(individuals.images[split.victims], device),
        torch.from_numpy(split.labels[split.victims]).to(device),
    )


def _trained(
    setup: Setup,
    individuals: Individuals,
    split: Split,
    device: str,
    say: Callable[[str], None],
    defense: Defense | None = None,
) -> SharedModel:
    """Return the shared model after `setup.rounds`, trained from the latest cached checkpoint on.

    Args:
        say: called with a description of the training before each part of it.
        defense: that clients train under, if any.

    Raises:
        UsageError: the model does not fit the image size or the split.
        WriteError: the cache cannot be written to, or the disk is full.
    """
    architecture: Architecture = setup.spec("model").build(MODELS)
    architecture.check(setup.image_size, setup.split)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for("weights", setup.seed))
        model = architecture.build(split.classes, setup.image_size, setup.split).to(device)
    run = _training_run(setup, individuals.fingerprint, device, defense)
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
                say(
                    f"training {setup.model} for {setup.main_task}{under}: round {start} of "
                    f"{setup.rounds}"
                )
                train(
                    model,
                    clients,
                    range(start, stop),
                    setup.learning_rate,
                    setup.client_batch,
                    setup.seed,
                    compute,
                )
            model.load_state_dict(cached_tensors(_weights(run, stop), model.state_dict))
            start = stop
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


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


def _training_run(setup: Setup, data: str, device: str, defense: Defense | None = None) -> str:
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


def _auxiliary(
    setup: Setup,
    individuals: Individuals,
    split: Split,
    foreign: Individuals | None,
    device: str,
) -> tuple[Auxiliary, NDArray[np.int64]]:
    """Return D_aux, people set aside in the victims' data set or those of another, and its rows.

    Raises:
        UsageError: nobody is left in it.
    """
    if foreign is None:
        source, rows, labels = individuals, split.auxiliary, split.labels
    else:
        source, rows = foreign, np.arange(len(foreign))
        labels = foreign_labels(foreign, setup.main_task)
        if setup.auxiliary_dataset == setup.dataset:
            rows = other_people(foreign, individuals, split)
    if not len(rows):
        raise UsageError(
            f"everybody in {setup.auxiliary_source} is a client or a victim, so that D_aux is "
            f"empty; choose another `auxiliary_dataset`"
        )
    rows = at_most(rows, source.identities, setup.auxiliary_individuals, setup.seed)
    return auxiliary_of(source, rows, labels, setup.properties, device), rows


def _features_of_auxiliary(model: SharedModel, auxiliary: Auxiliary, key: str) -> Tensor:
    """Return D_aux's deep features, shape (n, d), computed once.

    Args:
        key: of the weights, and of who is in D_aux.
    """
    found = cached_tensors(
        f"features/{key[:24]}", lambda: {"features": deep_features(model, auxiliary.images)}
    )
    return found["features"].to(auxiliary.images.device)


def feature_space(
    model: SharedModel, auxiliary: Auxiliary, features: Tensor, kind: PropertyModelKind, seed: int
) -> FeatureSpace:
    """Return D_aux's deep features and f_p, which is cached under the features themselves.

    Raises:
        UsageError: nothing can be learnt from this D_aux.
    """
    check_both_classes(auxiliary.properties)
    present = torch.stack(list(auxiliary.properties.values()))
    names = tuple(auxiliary.properties)
    identities = auxiliary.identities.cpu().numpy()
    key = digest(
        "property model",
        PROPERTY_MODEL_VERSION,
        [tensor_digest(features), tensor_digest(present)],
        names,
        identities.tolist(),
        seed,
        *([] if kind == "logistic" else [kind]),
    )

    def fit() -> dict[str, Tensor]:
        properties, fit_seed = auxiliary.properties, seed_for("f_p", seed)
        if kind == "logistic":
            return fit_logistic(features, properties, identities, fit_seed).tensors()
        mirrored = deep_features(model, auxiliary.images.flip(3))
        return fit_validated(features, mirrored, properties, identities, fit_seed).tensors()

    fitted, device = cached_tensors(f"property-models/{key[:24]}", fit), features.device
    if kind == "logistic":
        return FeatureSpace(features, LogisticPropertyModel.from_tensors(names, fitted, device))
    return FeatureSpace(features, ValidatedPropertyModel.from_tensors(names, fitted, device))


CHECKPOINT_EVERY = 500
"""Rounds after which weights are kept, so that a killed training loses no more than these."""
