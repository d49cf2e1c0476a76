"""What demixing attacks share: certain individuals, and a fallback's answer for the others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from leakbench.attacks.linear_layers.auxiliary_fallback import auxiliary_result, has_finite_update
from leakbench.attacks.linear_layers.demixing.auxiliary_population import (
    AuxiliaryPopulation,
    population_of,
)
from leakbench.attacks.linear_layers.demixing.groups import demix_in_groups
from leakbench.attacks.linear_layers.demixing.recovered import RecoveredIndividuals
from leakbench.attacks.linear_layers.demixing.search_budget import SearchBudget
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.linear_layers.head import Head, head_of
from leakbench.attacks.linear_layers.with_fallback import WithFallback
from leakbench.base.errors import UsageError
from leakbench.federation.batch_norm import batch_norm_layers
from leakbench.federation.defense import Defense
from leakbench.metrics.matching import match_individuals
from leakbench.threat.attack import AttackResult, Progress, part_of
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@dataclass(frozen=True, kw_only=True)
class DemixingAttack(WithFallback):
    """Demixes each batch's gradient; another attack answers for individuals it does not find.

    An individual that is found is certified by running the feature through the layers again. Where
    not all individuals of a batch are found, the fallback attacks the whole update, and its
    reconstructions answer for the others.

    Attributes:
        rounds: of Newton's method, at most.
        runs_at_once: runs of Newton's method, of each victim batch.
        patience: rounds without a new individual after which the search ends.
        fallback: name of the attack that answers for individuals that are not found; it must
            reconstruct features.
        fallback_parameters: of that attack. Suites and `--set` give them by their own names beside
            those above, such as `budget`. `feature` has `labels=counts` by default here.
    """

    note = (
        "budget and labels are the fallback's, for batches that are not found exactly; the search "
        "itself computes no gradient"
    )
    optional_knowledge: ClassVar = Knowledge.DEFENSE
    example_parameters: ClassVar = {"budget": 8}

    rounds: Annotated[int, Field(ge=0)] = 100
    runs_at_once: Annotated[int, Field(gt=0)] = 32
    patience: Annotated[int, Field(gt=0)] = 10

    @property
    def required_knowledge(self) -> Knowledge:
        """The model, the update and D_aux, and what the fallback needs."""
        own = Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY
        return own | self.fallback_attack.required_knowledge

    @abstractmethod
    def check_head(self, head: Head) -> None:
        """Refuse a classifier that the attack is not for.

        Raises:
            UsageError: names what to use.
        """

    @abstractmethod
    def demix(
        self,
        head: Head,
        batches: Sequence[VictimBatch],
        population: AuxiliaryPopulation,
        on_finished: Callable[[float], None],
    ) -> list[RecoveredIndividuals]:
        """Return the individuals of some victim batches, as far as they are found.

        Args:
            population: D_aux at the layer that is demixed first.
            on_finished: called with the number of batches that are finished.
        """

    def first_demixed(self, head: Head) -> int:  # noqa: ARG002
        """Return the number of layers before the one that is demixed first."""
        return 0

    def batches_together(self, head: Head, individuals: int) -> int:  # noqa: ARG002
        """Return how many batches are demixed together, the largest of so many individuals."""
        return 1

    @property
    def search_budget(self) -> SearchBudget:
        """How long to search."""
        return SearchBudget(rounds=self.rounds, runs=self.runs_at_once, patience=self.patience)

    def work(self, batch_size: int) -> float:
        """The work of a search that finds all; one that does not may take ten times as much."""
        return SEARCH * (1 + 8 / batch_size)

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Demix each batch; where not all individuals are certain, let the fallback answer."""
        assert server.model is not None and server.auxiliary is not None
        assert server.feature_space is not None
        refuse_batch_statistics(server, self.name)
        head = head_of(server.model, self.name)
        self.check_head(head)
        recovered = self.recover(
            head,
            [_victim_batch(observation, server.defense) for observation in observations],
            (server.feature_space.features, server.auxiliary.labels),
            part_of(progress, 0, 2),
        )
        certain = [each[each.certain] for each in recovered]
        incomplete = [
            observation
            for observation, found in zip(observations, certain, strict=True)
            if len(found) < observation.batch_size and has_finite_update(observation)
        ]
        fallback = iter(self.fall_back(server, incomplete, part_of(progress, 1, 2)))
        progress(1.0)
        results = []
        for observation, found in zip(observations, certain, strict=True):
            if not has_finite_update(observation):
                results.append(auxiliary_result(server, observation, certifies=True))
            elif len(found) == observation.batch_size:
                results.append(combined(found, None, server))
            else:
                results.append(combined(found, next(fallback), server))
        return results

    def recover(
        self,
        head: Head,
        batches: Sequence[VictimBatch],
        auxiliary: tuple[Tensor, Tensor],
        progress: Callable[[float], None],
    ) -> list[RecoveredIndividuals]:
        """Return the individuals of each victim batch, as far as they are found.

        Args:
            auxiliary: features of D_aux's individuals, shape (n, d), and their labels, shape (n,),
                −1 where unknown.

        Raises:
            UsageError: not even one victim batch fits into memory.
        """
        layers = self.first_demixed(head)
        features, labels = auxiliary
        inputs = head.inputs_after(features.to(head.first.weight), layers)
        population = population_of(head.after(layers), inputs, labels)
        largest = max((batch.individuals for batch in batches), default=1)
        return demix_in_groups(
            lambda some, on_finished: self.demix(head, some, population, on_finished),
            head,
            batches,
            self.batches_together(head, largest),
            progress,
        )


def _victim_batch(observation: Observation, defense: Defense | None) -> VictimBatch:
    update, size = observation.update, observation.batch_size
    assert update is not None
    reliability = {} if defense is None else defense.reliability(dict(update), size)
    return VictimBatch(update, size, observation.seed, reliability)


def refuse_batch_statistics(server: Server, attack: str) -> None:
    """Refuse features that depend on the batch, where f_p is not trained for such.

    Raises:
        UsageError: says what to set.
    """
    assert server.model is not None and server.feature_space is not None
    trained_for_it = server.feature_space.by_batch
    if server.mode == "train" and batch_norm_layers(server.model) and not trained_for_it:
        raise UsageError(
            f"attack {attack!r} needs clients that compute in evaluation mode where the model has "
            f"BatchNorm; take mode=eval, or model.batch_norm=false"
        )


def combined(
    found: RecoveredIndividuals, fallback: AttackResult | None, server: Server
) -> AttackResult:
    """Return individuals that are certain, and the fallback's for the others of the batch.

    Args:
        fallback: its answer for the whole batch; None where all individuals are certain.
    """
    assert server.model is not None and server.feature_space is not None
    device = next(server.model.parameters()).device
    features = found.features.float().to(device)
    labels: Tensor | None = found.labels.to(device)
    certified = found.certified.to(device)
    if fallback is not None:
        assert labels is not None and fallback.features is not None
        others = unmatched(features, fallback.features)
        features = torch.cat([features, fallback.features[others]])
        labels = None if fallback.labels is None else torch.cat([labels, fallback.labels[others]])
        certified = torch.cat([certified, certified.new_zeros(len(others))])
    return AttackResult(
        scores=server.feature_space.property_model(features),
        features=features,
        labels=labels,
        certified=certified,
        loss=None if fallback is None else fallback.loss,
        steps=0 if fallback is None else fallback.steps,
        restarts=0 if fallback is None else fallback.restarts,
        compiled=None if fallback is None else fallback.compiled,
        diverged=fallback is not None and fallback.diverged,
    )


def unmatched(certain: Tensor, reconstructed: Tensor) -> Tensor:
    """Return the rows of reconstructed features left over by one-to-one matching to certain ones.

    Args:
        certain: features, shape (n, d).
        reconstructed: features of the whole batch, shape (B, d).

    Returns:
        Shape (B − n,).
    """
    taken, _ = match_individuals(reconstructed, certain)
    left = torch.ones(len(reconstructed), dtype=torch.bool)
    left[taken] = False
    return left.nonzero().flatten().to(reconstructed.device)


SEARCH = 4.0
"""Work of the search for an individual of a large batch, in evaluations of its gradient."""
