"""The work that many cells share: loading, splitting, training, D_aux's features and f_p.

Images, weights, hits and f_p are cached under keys of everything that shaped them, and so
made once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakbench.base.cache import cached_tensors
from leakbench.base.choices import PropertyModelKind
from leakbench.base.errors import UsageError
from leakbench.base.plugins import PluginSpec
from leakbench.base.registry import DEFENSES
from leakbench.base.seeds import digest, seed_for, tensor_digest
from leakbench.data.dataset import Individuals
from leakbench.data.images import to_images
from leakbench.data.split import Split, split_individuals
from leakbench.evaluation.auxiliary import (
    at_most,
    auxiliary_of,
    foreign_labels,
    other_people,
)
from leakbench.evaluation.loading import fingerprint, load_auxiliary_individuals, load_individuals
from leakbench.evaluation.required_weights import provide_weights
from leakbench.evaluation.shared_training import trained_model, training_run
from leakbench.experiments.cell import PROPERTY_MODEL_VERSION, Setup
from leakbench.federation.defense import Defense
from leakbench.federation.shared_model import (
    SharedModel,
    deep_features,
    main_task_hits,
)
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
        main_task: accuracy on the victims' images, share of the most frequent class, share of D_aux
            that has a main-task label, and the accuracy of a centrally trained model if the setup
            has one.
        fingerprint: of the data set, or of both; see `fingerprint`.
        device: where the server's tensors are.
    """

    setup: Setup
    individuals: Individuals
    split: Split
    server: Server
    main_task: dict[str, float]
    fingerprint: str
    device: str


def prepare(
    setup: Setup,
    data_root: Path | None,
    device: str,
    on_status: Callable[[str], None],
    beside: EvaluationContext | None = None,
) -> EvaluationContext:
    """Do, or find in the cache, all the work that cells of this setup share.

    Args:
        on_status: called with a short description of each long step.
        beside: of another training of the same setup, on the same data and device, with which it
            shares individuals and D_aux; None to load them.

    Raises:
        UsageError: data, main task, properties, model, weights or split are not as they must be.
    """
    provide_weights(setup, data_root)
    on_status(f"loading {setup.dataset}")
    individuals = beside.individuals if beside else load_individuals(setup, data_root)
    foreign = load_auxiliary_individuals(setup, data_root)
    split = beside.split if beside else _split(individuals, setup)
    for name in setup.properties:
        individuals.attribute(name, "property")
    auxiliary, rows = _auxiliary(setup, individuals, split, foreign, device, beside)
    model = trained_model(setup, individuals, split, device, on_status)
    on_status(f"reading D_aux of {setup.auxiliary_source}")
    data = fingerprint(individuals, foreign)
    weights = [tensor_digest(each) for each in model.state_dict().values()]
    trained = training_run(setup, individuals.fingerprint, device)
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
    accuracy = {"accuracy": _accuracy(model, images, labels)}
    if setup.central:
        pooled = trained_model(setup, individuals, split, device, on_status, central=True)
        accuracy["central"] = _accuracy(pooled, images, labels)
    return EvaluationContext(
        setup=setup,
        individuals=individuals,
        split=split,
        server=server,
        main_task={
            **accuracy,
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


def model_for_utility(
    setup: Setup,
    defense: Defense | None,
    context: EvaluationContext,
    on_status: Callable[[str], None],
) -> SharedModel:
    """Return a model trained as the shared one, from the seeds of `setup.training`; cached.

    Args:
        setup: the context's, but for the number of the training.
        defense: under whose client part it is trained; None for none.
        on_status: called with a short description of each long step.
    """
    part = None if defense is None else defense.client_part()
    return trained_model(setup, context.individuals, context.split, context.device, on_status, part)


def train_beside(
    setup: Setup,
    defense: PluginSpec | None,
    data_root: Path | None,
    device: str,
    on_status: Callable[[str], None],
    central: bool = False,
) -> None:
    """Train a setup's model, for `model_for_utility` or `prepare` to find in the cache.

    Args:
        defense: under which it is trained, a client part; None for none.
        central: whether it is trained on all clients' data in one place.

    Raises:
        UsageError: data, main task, model or weights are not as they must be, or the training
            diverges.
    """
    provide_weights(setup, data_root)
    individuals = load_individuals(setup, data_root)
    split = _split(individuals, setup)
    under = None if defense is None else defense.build(DEFENSES)
    trained_model(setup, individuals, split, device, on_status, under, central)


def labelled_victims(individuals: Individuals, split: Split, device: str) -> tuple[Tensor, Tensor]:
    """Return all victims' images, (n, 3, size, size), and main-task classes, (n,)."""
    return (
        to_images(individuals.images[split.victims], device),
        torch.from_numpy(split.labels[split.victims]).to(device),
    )


def _auxiliary(
    setup: Setup,
    individuals: Individuals,
    split: Split,
    foreign: Individuals | None,
    device: str,
    beside: EvaluationContext | None,
) -> tuple[Auxiliary, NDArray[np.int64]]:
    """Return D_aux, people set aside in the victims' data set or those of another, and its rows.

    Raises:
        UsageError: no individual is left in it.
    """
    if foreign is None:
        source, rows, labels = individuals, split.auxiliary, split.labels
    else:
        source = foreign
        labels = foreign_labels(foreign, setup.main_task)
        same_people = setup.auxiliary_dataset == setup.dataset
        rows = other_people(foreign, individuals, split, same_people=same_people)
    if not len(rows):
        raise UsageError(
            f"everybody in {setup.auxiliary_source} is a client or a victim, so that D_aux is "
            f"empty; choose another `auxiliary_dataset`"
        )
    rows = at_most(rows, source.people, setup.auxiliary_individuals, setup.seed)
    if beside and beside.server.auxiliary:
        return beside.server.auxiliary, rows
    return auxiliary_of(source, rows, labels, setup.properties, device), rows


def _accuracy(model: SharedModel, images: Tensor, labels: Tensor) -> float:
    """Return a model's accuracy on images (n, 3, size, size) with labels (n,)."""
    return hits_of_model(model, images, labels).float().mean().item()


def hits_of_model(model: SharedModel, images: Tensor, labels: Tensor) -> Tensor:
    """Return whether a model classifies each image correctly, shape (n,), computed once.

    There may be thousands of images, and all cells on a training, or under a defense, ask it again.
    """
    numbers = [*model.state_dict().values(), images, labels]
    key = digest("hits", [tensor_digest(each) for each in numbers])
    found = cached_tensors(
        f"hits/{key[:24]}", lambda: {"hits": main_task_hits(model, images, labels)}
    )
    return found["hits"]


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
        # Rows of a table and texts, of an audit, have no mirror image.
        seen = auxiliary.images
        mirrored = deep_features(model, seen.flip(3)) if seen.ndim == 4 else features
        return fit_validated(features, mirrored, properties, identities, fit_seed).tensors()

    fitted, device = cached_tensors(f"property-models/{key[:24]}", fit), features.device
    if kind == "logistic":
        return FeatureSpace(features, LogisticPropertyModel.from_tensors(names, fitted, device))
    return FeatureSpace(features, ValidatedPropertyModel.from_tensors(names, fitted, device))
