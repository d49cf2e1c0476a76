"""What is audited: the server, and the clients' batches with what is known of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from leakbench.auditing.batch_features import features_in_batches
from leakbench.auditing.client_batches import (
    Batch,
    Clients,
    KnownBatch,
    captured_batch,
    computed_batch,
    rows_by_update,
)
from leakbench.auditing.labelled_images import Kind, LabelledImages, kind_of
from leakbench.auditing.model_splitting import SplitModel
from leakbench.auditing.part_errors import error_text
from leakbench.auditing.sent_statistics import sent_statistics
from leakbench.auditing.threat_model import ThreatModel
from leakbench.auditing.update_check import UpdateCheck, check_update
from leakbench.auditing.updates import ReadUpdates, UpdateFormat
from leakbench.base.errors import UsageError
from leakbench.evaluation.preparation import feature_space
from leakbench.evaluation.scoring import ScoringSetup
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.shared_model import main_task_hits
from leakbench.metrics.standardisation import Standardisation
from leakbench.threat.server import Auxiliary, Server

MIN_IDENTITIES = 3
"""People in D_aux that cross-validation of f_p needs at least."""


@dataclass(frozen=True)
class Case:
    """What is audited.

    Attributes:
        server: all that the server could know; attacks get what `threat` grants.
        model: the user's model, split.
        threat: what the server knows, and how clients compute.
        batches: of clients.
        accuracy: main-task accuracy on the individuals of the truth; None where there are none.
        unassigned: individuals of the truth who are in no batch.
        left_out: what is not audited and why, a sentence each.
        checks: whether each captured update is what the model computes; None for those that were
            not captured.
        notes: what else is known of the model and the clients, such as their mode, a sentence each.
        quick: whether the audit leaves out what takes long; see `leakbench.auditing.quick`.
    """

    server: Server
    model: SplitModel
    threat: ThreatModel
    batches: tuple[Batch, ...]
    accuracy: float | None
    unassigned: int
    left_out: tuple[str, ...]
    checks: tuple[UpdateCheck | None, ...]
    notes: tuple[str, ...] = ()
    quick: bool = False

    @property
    def known_batches(self) -> list[KnownBatch]:
        """The batches whose truth is known."""
        return [batch for batch in self.batches if isinstance(batch, KnownBatch)]

    @cached_property
    def standardise(self) -> Standardisation:
        """The standardisation of deep features by D_aux's."""
        assert self.server.feature_space is not None
        return Standardisation.of(self.server.feature_space.features)

    @property
    def kind(self) -> Kind:
        """What the model takes."""
        assert self.server.auxiliary is not None
        return kind_of(self.server.auxiliary.images)

    @property
    def scoring(self) -> ScoringSetup:
        """What scoring has to know besides the truth and the answers."""
        return ScoringSetup(
            properties=self.server.properties,
            implied=frozenset(),  # An audit does not know what the main task is made of.
            classes=self.server.classes,
            main_task={} if self.accuracy is None else {"accuracy": self.accuracy},
            seed=self.threat.seed,
        )


def case_of(
    clients: Clients,
    updates: ReadUpdates,
    auxiliary: LabelledImages,
    truth: LabelledImages | None,
    update_format: UpdateFormat,
    batch_sizes: Sequence[int] = (),
    most: int | None = None,
) -> Case:
    """Return the case of an audit.

    Args:
        updates: captured ones; if there are none, those of the truth are computed.
        auxiliary, truth: checked, with the properties to infer.
        update_format: of updates that were not captured.
        batch_sizes: of these, one after the other; empty for that of `update_format`.
        most: updates that are audited; None for all.

    Raises:
        UsageError: no update fits; a batch size is not known; nothing can be learned from this
            D_aux; or the truth has no labels, or names updates that do not exist.
    """
    if truth is not None and truth.labels is None:
        raise UsageError(
            "the truth has no labels of the main task, without which no update can be checked or "
            "computed; give it a column `label`"
        )
    names = [*(each.name for each in updates.captured), *updates.unread]
    rows = rows_by_update(names, truth, update_format, batch_sizes)
    batches: list[Batch] = []
    left_out: list[str] = []
    skipped: list[str] = []
    example = auxiliary.images[:1].to(clients.device)
    every = [each.name for each in updates.captured] or list(rows)
    if most is not None and len(every) > most:
        skipped = [f"{len(every) - most} of {len(every)} updates, for a quick audit"]
        every = every[:most]
    for name in every:
        captured = next((each for each in updates.captured if each.name == name), None)
        try:
            if captured is not None:
                batch = captured_batch(captured, clients, truth, rows.get(name, ()))
                sent = sent_statistics(captured, batch, clients, example)
                batches.append(replace(batch, statistics=sent))
            else:
                assert truth is not None
                batches.append(computed_batch(name, clients, truth, rows[name], update_format))
        except UsageError as error:
            left_out.append(str(error))
        except Exception as error:  # One update that cannot be audited must not end the audit.
            left_out.append(f"update {name!r} cannot be audited: {error_text(error)}")
    if left_out and not batches:
        raise UsageError(left_out[0])
    return Case(
        server=_server(clients, auxiliary, _usual_size(batches)),
        model=clients.model,
        threat=clients.threat,
        batches=tuple(batches),
        accuracy=_accuracy(clients.model, batches),
        unassigned=0 if truth is None else len(truth) - sum(map(len, rows.values())),
        left_out=(*updates.unread.values(), *skipped, *left_out),
        checks=tuple(check_update(batch, clients) for batch in batches),
    )


def _usual_size(batches: Sequence[Batch]) -> int:
    """Return the most frequent number of individuals in a batch."""
    return Counter(batch.size for batch in batches).most_common(1)[0][0]


def _server(clients: Clients, people: LabelledImages, together: int) -> Server:
    """Return the server, whose features of D_aux are of batches of `together` individuals."""
    labels, identities = people.labels, people.identities
    count, device = len(people), clients.device
    auxiliary = Auxiliary(
        images=people.images.to(device),
        labels=(torch.full((count,), -1) if labels is None else labels).to(device),
        properties={name: p.to(device) for name, p in people.properties.items()},
        identities=(torch.arange(count) if identities is None else identities).to(device),
    )
    if len(set(auxiliary.identities.tolist())) < MIN_IDENTITIES:
        raise UsageError(f"D_aux shows fewer than {MIN_IDENTITIES} people; add individuals")
    mode = clients.threat.mode
    return Server(
        classes=clients.model.classes,
        image_shape=tuple(auxiliary.images.shape[1:]),
        properties=tuple(people.properties),
        model=clients.model,
        auxiliary=auxiliary,
        feature_space=replace(
            feature_space(
                in_mode(clients.model, mode),
                auxiliary,
                features_in_batches(clients.model, auxiliary.images, mode, together),
                clients.threat.property_model,
                clients.threat.seed,
            ),
            by_batch=mode == "train",
        ),
    )


def _accuracy(model: SplitModel, batches: Sequence[Batch]) -> float | None:
    truths = [batch.truth for batch in batches if isinstance(batch, KnownBatch)]
    hits = [main_task_hits(model, truth.images, truth.labels).cpu() for truth in truths]
    return torch.cat(hits).float().mean().item() if hits else None
