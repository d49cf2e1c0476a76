"""Individuals planted in the gradient of a classifier of linear layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.auxiliary_population import (
    AuxiliaryPopulation,
    population_of,
)
from leakbench.attacks.linear_layers.demixing.masked_space import MaskedSpace
from leakbench.attacks.linear_layers.demixing.problem import MaskedProblem, masked_problem
from leakbench.attacks.linear_layers.demixing.recovered import RecoveredIndividuals
from leakbench.attacks.linear_layers.demixing.search_budget import SearchBudget
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.linear_layers.demixing_attack import DemixingAttack
from leakbench.attacks.linear_layers.head import Head, head_of
from leakbench.attacks.mask_demixing import MaskDemixing
from leakbench.attacks.newton_demixing import NewtonDemixing
from leakbench.federation.client import Client, client_update, gradient
from leakbench.federation.defense import Defense
from leakbench.federation.shared_model import ACTIVATIONS, SharedModel
from leakbench.threat.attack import Attack, AttackResult
from leakbench.threat.observation import Observation
from leakbench.threat.server import Auxiliary, FeatureSpace, Server

WIDTH = 96


@dataclass(frozen=True)
class Planted:
    """A classifier, individuals of one batch, and those of D_aux, as features."""

    model: SharedModel
    features: Tensor
    labels: Tensor
    auxiliary: Tensor
    auxiliary_labels: Tensor

    @property
    def head(self) -> Head:
        return head_of(self.model, "an attack")

    @property
    def update(self) -> dict[str, Tensor]:
        return client_update(self.model, self.features, self.labels)

    @property
    def population(self) -> AuxiliaryPopulation:
        return population_of(self.head, self.auxiliary, self.auxiliary_labels)

    @property
    def space(self) -> MaskedSpace:
        return self.problem().space

    @property
    def batch(self) -> VictimBatch:
        return VictimBatch(self.update, len(self.labels), 0)

    def problem(self, batch: VictimBatch | None = None) -> MaskedProblem:
        """Its own, or that of another batch of this model."""
        return masked_problem(self.head, batch or self.batch, self.population)

    def columns(self) -> Tensor:
        """The true x_i, rows scaled, in double precision, shape (m, B)."""
        z, probabilities = self.head.forward(self.features.double())
        own = functional.one_hot(self.labels, probabilities.shape[1])
        return (self.head.errors(z, own) / len(own)).T * self.space.scale[:, None]

    def changed(self, defense: Defense) -> dict[str, Tensor]:
        """What is sent of the batch under a defense."""
        draw = torch.Generator().manual_seed(0)
        client = Client(self.model, self.features, self.labels, 0.1, draw)
        return defense.protect(gradient)(client)


def planted(
    individuals: int,
    classes: int = 8,
    units: int = 128,
    seed: int = 0,
    activation: str = "relu",
    hidden_layers: int = 1,
) -> Planted:
    """Features that have something in common, as those of images do."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for inputs in [WIDTH, *[units] * (hidden_layers - 1)][:hidden_layers]:
        layers += [nn.Linear(inputs, units), ACTIVATIONS[activation]()]
    layers.append(nn.Linear(units if hidden_layers else WIDTH, classes))
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    common = torch.rand(WIDTH)
    features = (common + 0.7 * torch.randn(individuals + 200, WIDTH)).relu()
    labels = torch.randint(classes, (len(features),))
    return Planted(
        model=SharedModel(nn.Identity(), nn.Sequential(*layers)),
        features=features[:individuals],
        labels=labels[:individuals],
        auxiliary=features[individuals:],
        auxiliary_labels=labels[individuals:],
    )


def server_of(batch: Planted) -> Server:
    """A server that holds the classifier and D_aux, and infers no property."""
    count = len(batch.auxiliary)
    return Server(
        classes=batch.head.classes,
        image_shape=(3, 8, 8),
        properties=(),
        model=batch.model,
        auxiliary=Auxiliary(
            torch.zeros(count, 3, 8, 8), batch.auxiliary_labels, {}, torch.arange(count)
        ),
        feature_space=FeatureSpace(batch.auxiliary, lambda features: {}),
    )


def seen(batch: Planted, update: dict[str, Tensor] | None = None, seed: int = 0) -> Observation:
    """What a server sees that knows the labels, of a batch or of another update."""
    return Observation(
        batch_size=len(batch.labels),
        seed=seed,
        update=update or batch.update,
        labels=batch.labels.sort().values,
    )


def answer(attack: Attack, batch: Planted, update: dict[str, Tensor] | None = None) -> AttackResult:
    """An attack's answer for one batch."""
    (result,) = attack.infer(server_of(batch), [seen(batch, update)], lambda share: None)
    return result


def budget(
    reflections: int = 3000, reflection_runs: int = 128, rounds: int = 40, runs: int = 32
) -> SearchBudget:
    return SearchBudget(rounds, runs, 10, reflections, 1_000, reflection_runs)


def demixing_attack(head: Head, within: SearchBudget) -> DemixingAttack:
    """The attack for a head, with a search budget."""
    newton = {
        "rounds": within.rounds,
        "runs_at_once": within.runs,
        "patience": within.patience,
    }
    if not head.has_kinks:
        return NewtonDemixing(**newton)
    return MaskDemixing(
        **newton,
        reflections=within.reflections,
        quiet=within.reflection_patience,
        reflected_at_once=within.reflection_runs,
    )


def found_in(
    batches: Sequence[Planted],
    within: SearchBudget | None = None,
    updates: Sequence[dict[str, Tensor]] | None = None,
) -> list[RecoveredIndividuals]:
    """Search batches that share a model and D_aux."""
    first = batches[0]
    sent = updates or [each.update for each in batches]
    return demixing_attack(first.head, within or budget()).recover(
        first.head,
        [
            VictimBatch(update, len(each.labels), number)
            for number, (each, update) in enumerate(zip(batches, sent, strict=True))
        ],
        (first.auxiliary, first.auxiliary_labels),
        lambda share: None,
    )


def best_cosines(found: RecoveredIndividuals, true: Tensor) -> Tensor:
    """Of each that was found with whoever is most like it."""
    pairs = functional.cosine_similarity(found.features[:, None], true.double()[None], dim=2)
    return pairs.max(1).values
