"""What demixing works on: one victim batch at one layer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from leakbench.attacks.linear_layers.demixing.auxiliary_population import AuxiliaryPopulation
from leakbench.attacks.linear_layers.demixing.candidates import Candidates
from leakbench.attacks.linear_layers.demixing.gradient_space import GradientSpace, space_of
from leakbench.attacks.linear_layers.demixing.masked_space import MaskedSpace, masked_space_of
from leakbench.attacks.linear_layers.demixing.recovered import (
    SPARE_EQUATIONS,
    RecoveredIndividuals,
    spare_equations,
)
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.linear_layers.demixing.withheld import Predictor, predictor_of
from leakbench.attacks.linear_layers.head import Head


@dataclass(frozen=True)
class Problem:
    """One victim batch at one layer, and the candidates that searches have found.

    Attributes:
        batch: as the server sees it.
        head: the layer and those that follow.
        space: of the layer's gradient.
        population: individuals of D_aux at the layer.
        predictor: completes features of which the gradient shows only a part, if so.
    """

    batch: VictimBatch
    head: Head
    space: GradientSpace
    population: AuxiliaryPopulation
    predictor: Predictor | None = None

    @cached_property
    def candidates(self) -> Candidates:
        """The candidates found so far."""
        return Candidates(self.head, self.space)

    @property
    def is_determined(self) -> bool:
        """Whether there are more equations than unknowns, or only one individual."""
        enough = spare_equations(self.head, self.space) >= SPARE_EQUATIONS
        return self.space.individuals == 1 or enough

    @property
    def recovered(self) -> RecoveredIndividuals:
        """The individuals that the candidates make."""
        best = self.candidates.best
        return best if self.predictor is None else self.predictor.complete(best)


@dataclass(frozen=True)
class MaskedProblem(Problem):
    """A problem at a hidden layer with a rectifier, before the output layer."""

    space: MaskedSpace


def masked_problem(
    head: Head, batch: VictimBatch, population: AuxiliaryPopulation
) -> MaskedProblem:
    """Return the problem of a batch at the last hidden layer, which has a rectifier.

    Entries of the features whose gradient was withheld altogether are left out, and predicted
    afterwards.
    """
    observed = batch.observed(head.first)
    space = masked_space_of(head, batch, observed)
    known = observed.columns
    if bool(known.all()):
        return MaskedProblem(batch, head, space, population)
    predictor = predictor_of(population.features.double(), known)
    visible = population.restricted_to(known)
    return MaskedProblem(batch, predictor.head(head), space, visible, predictor)


def smooth_problem(
    head: Head, batch: VictimBatch, population: AuxiliaryPopulation
) -> Problem | None:
    """Return the problem of a batch at a layer of any activation.

    None where a part of the features is not in the gradient: then z is unknown.
    """
    observed = batch.observed(head.first)
    if not observed.columns.all():
        return None
    space = space_of(observed, batch.individuals, population.scale, batch.precision(head))
    return Problem(batch, head, space, population)
