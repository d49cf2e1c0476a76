"""The client batches of an audit: from captured updates, from the truth, or from both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from leakbench.auditing.batch_features import features_together
from leakbench.auditing.client_defense import combined_defense
from leakbench.auditing.labelled_images import LabelledImages, name_of
from leakbench.auditing.model_loading import Model
from leakbench.auditing.model_splitting import SplitModel
from leakbench.auditing.threat_model import ThreatModel
from leakbench.auditing.updates import (
    CapturedUpdate,
    UpdateFormat,
    as_gradient,
    local_steps,
    with_batch_size,
)
from leakbench.base.errors import UsageError
from leakbench.base.plugins import PluginSpec
from leakbench.federation.client import Update
from leakbench.threat.observation import GroundTruth

DEFAULT_LEARNING_RATE = 0.1
"""η of clients whose learning rate is not given."""


@dataclass(frozen=True)
class Batch:
    """One client's batch, or the batches of several clients behind one aggregated update.

    Attributes:
        name: of its update.
        size: individuals in it.
        update: as it was captured; None if it is computed from the truth.
        defense: under which the update is sent, local steps included.
        learning_rate: η of the client.
        statistics: of the batch before each BatchNorm layer, see `Observation`; None where the
            client does not send them.
    """

    name: str
    size: int
    update: Update | None
    defense: PluginSpec
    learning_rate: float
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class KnownBatch(Batch):
    """A batch whose individuals are known.

    Attributes:
        truth: the individuals.
        individuals: their names.
    """

    truth: GroundTruth
    individuals: tuple[str, ...]


@dataclass(frozen=True)
class Clients:
    """How the clients compute their updates.

    Attributes:
        model: the user's model, split, on the device.
        original: the user's model as it was given.
        threat: mode and defense.
        device: of tensors.
    """

    model: SplitModel
    original: Model
    threat: ThreatModel
    device: str


def rows_by_update(
    names: Sequence[str],
    truth: LabelledImages | None,
    update_format: UpdateFormat,
    batch_sizes: Sequence[int] = (),
) -> dict[str, list[int]]:
    """Return the truth's rows of each batch, by the update's name.

    Args:
        names: of the captured updates, those that could not be read included.
        batch_sizes: of consecutive batches, if no update was captured; empty for that of
            `update_format`.

    Raises:
        UsageError: the truth names an update that does not exist, or does not say in which batch
            an individual is.
    """
    if truth is None:
        return {}
    if truth.updates is None and names:
        if len(names) > 1:
            raise UsageError(
                "the truth does not say which update each individual is in; give it a column "
                "`update` with the names of the updates' files"
            )
        return {names[0]: list(range(len(truth)))}
    if truth.updates is None:
        return _consecutive_rows(len(truth), update_format, batch_sizes)
    rows: dict[str, list[int]] = {}
    for row, given in enumerate(truth.updates):
        name = "" if given is None else str(given)
        if names and name and name not in names:
            raise UsageError(
                f"{name_of(truth, row)} of the truth is in update {name!r}, which does not exist; "
                f"there are {', '.join(sorted(names)[:5])}"
            )
        if name:
            rows.setdefault(name, []).append(row)
    return rows


def _consecutive_rows(
    individuals: int, update_format: UpdateFormat, batch_sizes: Sequence[int]
) -> dict[str, list[int]]:
    if batch_sizes:
        if sum(batch_sizes) != individuals:
            raise UsageError(
                f"the batch sizes add up to {sum(batch_sizes)}, but the truth has {individuals} "
                f"individuals; correct batch_size, or give the truth a column `update`"
            )
        parts = torch.split(torch.arange(individuals), list(batch_sizes))
        return {f"batch {number}": rows.tolist() for number, rows in enumerate(parts, 1)}
    size = update_format.batch_size
    if size is None:
        raise UsageError(
            "the batch size is not known: no update was captured, and the truth has no column "
            "`update`; give batch_size"
        )
    if individuals % size:
        raise UsageError(
            f"{individuals} individuals of the truth cannot be divided into batches of {size}; "
            f"give another batch_size, or give the truth a column `update`"
        )
    return {
        f"batch {start // size + 1}": list(range(start, start + size))
        for start in range(0, individuals, size)
    }


def captured_batch(
    captured: CapturedUpdate,
    clients: Clients,
    truth: LabelledImages | None,
    rows: Sequence[int],
) -> Batch:
    """Return the batch of a captured update.

    Args:
        rows: of the truth that are in the batch; empty where its truth is not known.

    Raises:
        UsageError: the update does not fit the model, or its batch size is not known.
    """
    captured = with_batch_size(captured, len(rows) or None)
    given = captured.update_format
    assert given.batch_size is not None
    batch = Batch(
        name=captured.name,
        size=given.batch_size,
        update=as_gradient(captured, clients.model, clients.original),
        defense=_defense(given, given.batch_size, captured.name, clients.threat),
        learning_rate=given.learning_rate or DEFAULT_LEARNING_RATE,
    )
    if truth is None or not rows:
        return batch
    return _with_truth(batch, clients, truth, rows)


def computed_batch(
    name: str,
    clients: Clients,
    truth: LabelledImages,
    rows: Sequence[int],
    update_format: UpdateFormat,
) -> KnownBatch:
    """Return a batch whose update is computed from the truth.

    Raises:
        UsageError: the local steps do not fit the batch.
    """
    batch = Batch(
        name=name,
        size=len(rows),
        update=None,
        defense=_defense(update_format, len(rows), name, clients.threat),
        learning_rate=update_format.learning_rate or DEFAULT_LEARNING_RATE,
    )
    return _with_truth(batch, clients, truth, rows)


def _defense(update_format: UpdateFormat, size: int, name: str, threat: ThreatModel) -> PluginSpec:
    """Return the clients' own defense together with their local steps, which are one too."""
    steps = local_steps(update_format, size, name)
    own = threat.client_defense
    return combined_defense(own, steps) if steps is not None else own


def _with_truth(
    batch: Batch, clients: Clients, people: LabelledImages, rows: Sequence[int]
) -> KnownBatch:
    truth = _ground_truth(clients, people, list(rows))
    return KnownBatch(
        name=batch.name,
        size=batch.size,
        update=batch.update,
        defense=batch.defense,
        learning_rate=batch.learning_rate,
        truth=truth,
        individuals=tuple(name_of(people, row) for row in rows),
    )


def _ground_truth(clients: Clients, people: LabelledImages, rows: list[int]) -> GroundTruth:
    assert people.labels is not None
    images = people.images[rows].to(clients.device)
    identities = people.identities
    return GroundTruth(
        images=images,
        labels=people.labels[rows].to(clients.device),
        features=features_together(clients.model, images, clients.threat.mode),
        properties={name: present[rows] for name, present in people.properties.items()},
        identities=torch.tensor(rows) if identities is None else identities[rows],
    )
