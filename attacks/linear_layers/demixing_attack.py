"""What attacks share that demix the gradients of linear layers."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from leakbench.attacks.linear_layers.certifying_attack import (
    CertifyingAttack,
    refuse_batch_statistics,
)
from leakbench.attacks.linear_layers.demixing.auxiliary_population import (
    AuxiliaryPopulation,
    population_of,
)
from leakbench.attacks.linear_layers.demixing.groups import demix_in_groups
from leakbench.attacks.linear_layers.demixing.recovered import RecoveredIndividuals
from leakbench.attacks.linear_layers.demixing.search_budget import SearchBudget
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.linear_layers.head import Head, head_of
from leakbench.federation.defense import Defense
from leakbench.threat.attack import Progress
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@dataclass(frozen=True, kw_only=True)
class DemixingAttack(CertifyingAttack):
    """Demixes the gradient of each batch at the classifier's linear layers.

    An individual that is found is certified by running the feature through the layers again.

    Attributes:
        rounds: of Newton's method, at most.
        runs_at_once: runs of Newton's method, of each victim batch.
        patience: rounds without a new individual after which the search ends.
    """

    optional_knowledge: ClassVar = Knowledge.DEFENSE

    rounds: Annotated[int, Field(ge=0)] = 100
    runs_at_once: Annotated[int, Field(gt=0)] = 32
    patience: Annotated[int, Field(gt=0)] = 10

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

    def recovered(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[RecoveredIndividuals]:
        """Demix each batch."""
        assert server.model is not None and server.auxiliary is not None
        assert server.feature_space is not None
        refuse_batch_statistics(server, self.name)
        head = head_of(server.model, self.name)
        self.check_head(head)
        return self.recover(
            head,
            [_victim_batch(observation, server.defense) for observation in observations],
            (server.feature_space.features, server.auxiliary.labels),
            progress,
        )

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
