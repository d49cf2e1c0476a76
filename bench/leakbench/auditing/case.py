"""What is audited, in the harness's terms: the server, and batches with what is known of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from leakbench.auditing.labelled_images import LabelledImages, name_of
from leakbench.auditing.model_loading import Model
from leakbench.auditing.model_splitting import OwnModel
from leakbench.auditing.updates import (
    Captured,
    UpdateFormat,
    as_gradient,
    defense_parameters_of,
    with_size,
)
from leakbench.base.choices import Mode, PropertyModelKind
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build
from leakbench.base.registry import DEFENSES
from leakbench.base.seeds import generator_for
from leakbench.data.dataset import Individuals
from leakbench.data.split import IDENTITY_TASK, Split
from leakbench.evaluation.defense_cost import distortion
from leakbench.evaluation.preparation import EvaluationContext, feature_space
from leakbench.experiments.cell import Setup
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import Client, Update, gradient
from leakbench.federation.defense import Defense
from leakbench.federation.shared_model import deep_features, main_task_hits
from leakbench.threat.observation import GroundTruth
from leakbench.threat.server import Auxiliary, Server

FOLDS = 3
"""People that choosing f_p takes at least."""


class ThreatModel(BaseModel):
    """What the server of an audit may know, and how clients compute.

    Attributes:
        mode: how clients run the model, see `leakbench.base.choices.Mode`.
        labels_known: whether the server knows each batch's main-task labels; else attacks recover
            them from the update.
        defense: under which the updates were captured, `{"name": …, parameter: …}`; the server
            knows it too. None where updates are sent as they are.
        property_model: f_p, see `leakbench.base.choices.PropertyModelKind`.
        seed: of all that is drawn.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    mode: Mode = "eval"
    labels_known: bool = False
    defense: dict[str, Any] | None = None
    property_model: PropertyModelKind = "validated"
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class Batch:
    """One client's batch.

    Attributes:
        name: of its update.
        size: individuals in it.
        update: as it was captured; None to let a client compute it.
        defense: under which it is sent, with name and parameters.
        learning_rate: η of the client.
        truth: who was in it; None where that is not known.
        people: what its individuals are called, of a known truth.
        mismatch: how far the update is from what the truth gives, ‖difference‖ / ‖what it gives‖;
            None where there is nothing to compare, or the defense draws.
    """

    name: str
    size: int
    update: Update | None
    defense: Mapping[str, Any]
    learning_rate: float
    truth: GroundTruth | None = None
    people: tuple[str, ...] = ()
    mismatch: float | None = None


@dataclass(frozen=True)
class Case:
    """What is audited.

    Attributes:
        context: the server, and all that the harness needs besides.
        threat: what the server knows.
        batches: of clients.
        unplaced: individuals of the truth who are in no batch.
        left_out: what is not audited and why, a sentence each.
    """

    context: EvaluationContext
    threat: ThreatModel
    batches: tuple[Batch, ...]
    unplaced: int = 0
    left_out: tuple[str, ...] = ()

    @property
    def model(self) -> OwnModel:
        """The user's model, cut."""
        model = self.context.server.model
        assert isinstance(model, OwnModel)
        return model

    @property
    def known(self) -> list[Batch]:
        """The batches whose truth is known."""
        return [batch for batch in self.batches if batch.truth is not None]


def case_of(
    model: OwnModel,
    whole: Model,
    captured: Sequence[Captured],
    auxiliary: LabelledImages,
    truth: LabelledImages | None,
    properties: Sequence[str],
    sending: UpdateFormat,
    threat: ThreatModel,
    device: str,
) -> Case:
    """Put an audit into the harness's terms.

    Args:
        model: the user's, cut, on the device.
        whole: as it was given.
        captured: updates; none to let clients compute those of the truth.
        auxiliary, truth: checked.
        sending: how clients compute updates that were not captured.

    Raises:
        UsageError: no update fits; a batch size is not known; nothing can be learnt from this
            D_aux; or the truth has no labels, or names updates that there are not.
    """
    if truth is not None and truth.labels is None:
        raise UsageError(
            "the truth has no labels of the main task, without which no update can be checked or "
            "computed; give it a column `label`"
        )
    rows = _rows_of_batches(captured, truth, sending)
    server = _server(model, auxiliary, properties, threat, device)
    batches: list[Batch] = []
    left_out: list[str] = []
    for each in captured:
        of_truth = rows.get(each.name)
        try:
            sized = with_size(each, len(of_truth or ()) or None)
            batches.append(_captured_batch(sized, model, whole, truth, of_truth, threat, device))
        except UsageError as error:
            left_out.append(str(error))
    if left_out and not batches:
        raise UsageError(left_out[0])
    if not captured:
        assert truth is not None
        for name, chosen in rows.items():
            batches.append(_own_batch(name, chosen, model, truth, sending, threat, device))
    individuals = _individuals([b.truth for b in batches if b.truth is not None], properties)
    labels = [b.truth.labels for b in batches if b.truth is not None]
    known = torch.cat(labels) if labels else torch.zeros(0, dtype=torch.long)
    context = EvaluationContext(
        setup=_setup(properties, auxiliary, threat),
        individuals=individuals,
        split=Split(
            [], np.arange(0), np.arange(len(individuals)), known.cpu().numpy(), model.classes
        ),
        server=server,
        hits=_hits(model, batches),
        main_task={},
        fingerprint="",
        device=device,
    )
    if context.hits.numel():
        context.main_task["accuracy"] = context.hits.float().mean().item()
    placed = sum(map(len, rows.values()))
    unplaced = 0 if truth is None else len(truth) - placed
    return Case(context, threat, tuple(batches), unplaced, tuple(left_out))


def _rows_of_batches(
    captured: Sequence[Captured], truth: LabelledImages | None, sending: UpdateFormat
) -> dict[str, list[int]]:
    """Return the truth's rows of each batch, by the update's name.

    Raises:
        UsageError: the truth names an update that there is not, or it does not say whose batch an
            individual is in.
    """
    if truth is None:
        return {}
    if truth.updates is None and captured:
        if len(captured) > 1:
            raise UsageError(
                "the truth does not say which update each individual is in; give it a column "
                "`update` with the names of the updates' files"
            )
        return {captured[0].name: list(range(len(truth)))}
    if truth.updates is None:
        return _in_order(len(truth), sending)
    rows: dict[str, list[int]] = {}
    names = {each.name for each in captured}
    for row, name in enumerate(truth.updates):
        if captured and name and name not in names:
            raise UsageError(
                f"{name_of(truth, row)} of the truth is in update {name!r}, which there is not; "
                f"there are {', '.join(sorted(names)[:5])}"
            )
        if name:
            rows.setdefault(name, []).append(row)
    return rows


def _in_order(individuals: int, sending: UpdateFormat) -> dict[str, list[int]]:
    if sending.batch_size is None:
        raise UsageError(
            "the batch size is not known: no update was captured, and the truth has no column "
            "`update`; say batch_size"
        )
    size = sending.batch_size
    if individuals % size:
        raise UsageError(
            f"{individuals} individuals of the truth make no whole number of batches of {size}; "
            f"say another batch_size, or give the truth a column `update`"
        )
    return {
        f"batch {start // size + 1}": list(range(start, start + size))
        for start in range(0, individuals, size)
    }


def _captured_batch(
    captured: Captured,
    model: OwnModel,
    whole: Model,
    people: LabelledImages | None,
    rows: list[int] | None,
    threat: ThreatModel,
    device: str,
) -> Batch:
    sending = captured.sending
    assert sending.batch_size is not None
    update = as_gradient(captured, model, whole)
    defense = _defense_with_steps(sending, sending.batch_size, captured.name, threat)
    batch = Batch(
        name=captured.name,
        size=sending.batch_size,
        update=update,
        defense=defense,
        learning_rate=sending.learning_rate or 0.1,
    )
    if rows is None or people is None:
        return batch
    truth = _truth(model, people, rows, device)
    batch = replace(batch, truth=truth, people=tuple(name_of(people, row) for row in rows))
    return replace(batch, mismatch=_mismatch(batch, model, threat))


def _own_batch(
    name: str,
    rows: list[int],
    model: OwnModel,
    people: LabelledImages,
    sending: UpdateFormat,
    threat: ThreatModel,
    device: str,
) -> Batch:
    return Batch(
        name=name,
        size=len(rows),
        update=None,
        defense=_defense_with_steps(sending, len(rows), name, threat),
        learning_rate=sending.learning_rate or 0.1,
        truth=_truth(model, people, rows, device),
        people=tuple(name_of(people, row) for row in rows),
    )


def _defense_with_steps(
    sending: UpdateFormat, size: int, name: str, threat: ThreatModel
) -> Mapping[str, Any]:
    """Return what the harness calls the defense: the clients' own, and their local steps."""
    steps = defense_parameters_of(sending, size, name)
    own = threat.defense
    if steps is None:
        return own or {"name": "none"}
    return on_top(own or {"name": "none"}, {"name": "local_steps", **steps})


def on_top(own: Mapping[str, Any], further: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a defense on top of what clients do already, in the order in which both come in."""
    parts = [part for table in (own, further) for part in _parts(table)]
    if len(parts) <= 1:
        return parts[0] if parts else {"name": "none"}
    return {"name": "composed", "defenses": sorted(parts, key=lambda p: defense_from(p).stage)}


def _parts(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    if table["name"] == "none":
        return []
    return [dict(part) for part in table["defenses"]] if table["name"] == "composed" else [table]  # type: ignore[list-item]


def defense_from(table: Mapping[str, Any]) -> Defense:
    """Return a defense from its name and parameters.

    Raises:
        UsageError: it has no name, is unknown, or a parameter does not fit.
    """
    if "name" not in table:
        raise UsageError(
            f"defense {dict(table)!r} has no name; write {{'name': 'gaussian', 'sigma': 0.01}}"
        )
    parameters = {key: value for key, value in table.items() if key != "name"}
    defense: Defense = build(DEFENSES, str(table["name"]), parameters)
    return defense


def _truth(model: OwnModel, people: LabelledImages, rows: list[int], device: str) -> GroundTruth:
    assert people.labels is not None
    images = people.images[rows].to(device)
    identities = people.identities
    return GroundTruth(
        images=images,
        labels=people.labels[rows].to(device),
        features=deep_features(model, images),
        properties={name: present[rows] for name, present in people.properties.items()},
        identities=torch.tensor(rows) if identities is None else identities[rows],
    )


def _mismatch(batch: Batch, model: OwnModel, threat: ThreatModel) -> float | None:
    """Return how far an update is from what its truth gives; None where clients draw."""
    assert batch.truth is not None and batch.update is not None
    steps = set(batch.defense) <= {"name", "epochs"} and batch.defense["name"] == "local_steps"
    if batch.defense["name"] != "none" and not steps:
        return None
    client = Client(
        model=in_mode(model, threat.mode),
        images=batch.truth.images,
        labels=batch.truth.labels,
        learning_rate=batch.learning_rate,
        generator=generator_for("mismatch"),
    )
    return distortion(batch.update, defense_from(batch.defense).protect(gradient)(client))


def _server(
    model: OwnModel,
    people: LabelledImages,
    properties: Sequence[str],
    threat: ThreatModel,
    device: str,
) -> Server:
    labels, identities = people.labels, people.identities
    count = len(people)
    auxiliary = Auxiliary(
        images=people.images.to(device),
        labels=(torch.full((count,), -1) if labels is None else labels).to(device),
        properties={name: p.to(device) for name, p in people.properties.items()},
        identities=(torch.arange(count) if identities is None else identities).to(device),
    )
    if len(set(auxiliary.identities.tolist())) < FOLDS:
        raise UsageError(f"D_aux shows fewer than {FOLDS} people; add individuals")
    _, channels, height, width = auxiliary.images.shape
    return Server(
        classes=model.classes,
        image_shape=(channels, height, width),
        properties=tuple(properties),
        model=model,
        auxiliary=auxiliary,
        feature_space=feature_space(
            model,
            auxiliary,
            deep_features(model, auxiliary.images),
            _setup(properties, people, threat),
        ),
    )


def _setup(properties: Sequence[str], people: LabelledImages, threat: ThreatModel) -> Setup:
    """Return the part of a cell that an audit's cells share."""
    return Setup(
        dataset="own",
        image_size=people.images.shape[2],
        properties=tuple(properties),
        main_task=IDENTITY_TASK,
        model="own",
        rounds=0,
        property_model=threat.property_model,
        seed=threat.seed,
    )


def _individuals(truths: Sequence[GroundTruth], properties: Sequence[str]) -> Individuals:
    """Return the victims' properties as the harness asks for them; images it does not ask for."""

    def column(values: list[Tensor]) -> Tensor:
        return torch.cat(values) if values else torch.zeros(0)

    identities = column([truth.identities for truth in truths]).long().numpy()
    return Individuals(
        images=np.empty((len(identities), 0), dtype=np.uint8),
        attributes={
            name: column([truth.properties[name] for truth in truths]).bool().numpy()
            for name in properties
        },
        identities=identities,
        fingerprint="",
    )


def _hits(model: OwnModel, batches: Sequence[Batch]) -> Tensor:
    hits = [
        main_task_hits(model, b.truth.images, b.truth.labels).cpu()
        for b in batches
        if b.truth is not None
    ]
    return torch.cat(hits) if hits else torch.zeros(0, dtype=torch.bool)
