"""What attacks have in common that demix a gradient: who is certain, and an answer for the rest."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from leakbench.attacks.feature import FeatureReconstruction
from leakbench.attacks.linear_layers.auxiliary_fallback import without_update
from leakbench.attacks.linear_layers.demixing.batch import Batch
from leakbench.attacks.linear_layers.demixing.effort import Effort
from leakbench.attacks.linear_layers.demixing.mixture import Demixed
from leakbench.attacks.linear_layers.head import Head, head_of
from leakbench.attacks.matching.matching_attack import Labels
from leakbench.base.errors import UsageError
from leakbench.federation.batch_norm import batch_norm_layers
from leakbench.federation.defense import Defense
from leakbench.metrics.matching import match_individuals
from leakbench.threat.attack import AttackResult, Progress, part_of
from leakbench.threat.observation import Observation
from leakbench.threat.server import PropertyModel, Server

Demix = Callable[[Head, Sequence[Batch], tuple[Tensor, Tensor], Effort, Progress], list[Demixed]]
"""As `leakbench.attacks.linear_layers.demixing.search.demix_masks`."""


@dataclass(frozen=True, kw_only=True)
class DemixingAttack(FeatureReconstruction):
    """Demixes each batch's gradient, and matches gradients for whom it does not find.

    Whoever is found is certified by running the feature through the layers again. Where not all are
    found, the proposed attack runs on the whole update, and its dummies answer for the others.

    Attributes:
        rounds: of Newton's method, at most.
        runs_at_once: of this, of each victim batch.
        patience: rounds without anybody new after which the search ends.
    """

    note = (
        "budget and labels are the fallback's, for batches that are not found exactly; the search "
        "itself computes no gradient"
    )

    labels: Labels = "counts"
    rounds: Annotated[int, Field(ge=0)] = 100
    runs_at_once: Annotated[int, Field(gt=0)] = 32
    patience: Annotated[int, Field(gt=0)] = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reads == "images":
            raise ValueError("reads must be features: this attack finds no images")

    @property
    @abstractmethod
    def demix(self) -> Demix:
        """What demixes."""

    @abstractmethod
    def check_head(self, head: Head) -> None:
        """Refuse a classifier that it is not for.

        Raises:
            UsageError: names what to use.
        """

    @property
    def effort(self) -> Effort:
        """How long to search."""
        return Effort(rounds=self.rounds, runs=self.runs_at_once, patience=self.patience)

    def work(self, batch_size: int) -> float:
        """What a search takes that finds all; one that does not may take ten times as much."""
        return SEARCH * (1 + 8 / batch_size)

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Demix each batch; match gradients of those that are not found whole."""
        assert server.model is not None and server.auxiliary is not None
        assert server.feature_space is not None
        refuse_batch_statistics(server, self.name)
        head = head_of(server.model, self.name)
        self.check_head(head)
        demixed = self.demix(
            head,
            [_batch(observation, server.defense) for observation in observations],
            (server.feature_space.features, server.auxiliary.labels),
            self.effort,
            part_of(progress, 0, 2),
        )
        found = [each[each.certain] for each in demixed]
        missing = [
            o for o, each in zip(observations, found, strict=True) if len(each) < o.batch_size
        ]
        rest = [o for o in missing if _is_finite(o)]
        matched = iter(super().infer(server, rest, part_of(progress, 1, 2)) if rest else [])
        progress(1.0)
        read = server.feature_space.property_model
        answers = []
        for observation, each in zip(observations, found, strict=True):
            if not _is_finite(observation):
                answers.append(without_update(server, observation))
            else:
                whole = len(each) == observation.batch_size
                answers.append(_answer(each, None if whole else next(matched), read, server))
        return answers


def _is_finite(observation: Observation) -> bool:
    assert observation.update is not None
    return all(bool(value.isfinite().all()) for value in observation.update.values())


def _batch(observation: Observation, defense: Defense | None) -> Batch:
    update, size = observation.update, observation.batch_size
    assert update is not None
    reliability = {} if defense is None else defense.reliability(dict(update), size)
    return Batch(update, size, observation.seed, reliability)


def refuse_batch_statistics(server: Server, attack: str) -> None:
    """Refuse features that depend on the batch, for which f_p is none.

    Raises:
        UsageError: says what to set.
    """
    assert server.model is not None
    if server.mode == "train" and batch_norm_layers(server.model):
        raise UsageError(
            f"attack {attack!r} needs clients that compute in evaluation mode where the model has "
            f"BatchNorm; take mode=eval, or model.batch_norm=false"
        )


def _answer(
    found: Demixed, matched: AttackResult | None, read: PropertyModel, server: Server
) -> AttackResult:
    """Return what is certain, and of who was matched besides those who are not the certain ones.

    Args:
        matched: dummies for the whole batch; none where all are certain.
    """
    assert server.model is not None
    device = next(server.model.parameters()).device
    features = found.features.float().to(device)
    labels, certified = found.labels.to(device), found.certified.to(device)
    if matched is not None:
        assert matched.features is not None and matched.labels is not None
        others = _others(features, matched.features)
        features = torch.cat([features, matched.features[others]])
        labels = torch.cat([labels, matched.labels[others]])
        certified = torch.cat([certified, certified.new_zeros(len(others))])
    return AttackResult(
        scores=read(features),
        features=features,
        labels=labels,
        certified=certified,
        loss=None if matched is None else matched.loss,
        steps=0 if matched is None else matched.steps,
        restarts=0 if matched is None else matched.restarts,
        diverged=matched is not None and matched.diverged,
    )


def _others(certain: Tensor, dummies: Tensor) -> Tensor:
    """Return the rows of dummies but those that are nearest to the certain ones, one to one."""
    taken, _ = match_individuals(dummies, certain)
    left = torch.ones(len(dummies), dtype=torch.bool)
    left[taken] = False
    return left.nonzero().flatten().to(dummies.device)


SEARCH = 4.0
"""Work of the search for an individual of a large batch, in evaluations of its gradient."""
