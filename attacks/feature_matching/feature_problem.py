"""One victim batch as a problem of matching g_c, and D_aux, from which its dummies start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.feature_matching.coordinates import Standard, coordinates_of
from leakbench.attacks.feature_matching.residual import Dummies, Residual
from leakbench.attacks.linear_layers.demixing.gradient_space import precision_of
from leakbench.attacks.linear_layers.head import Head
from leakbench.attacks.matching.distance import cosine_gaussian_distance
from leakbench.metrics.standardisation import Standardisation
from leakbench.threat.server import Auxiliary


@dataclass(frozen=True)
class Population:
    """D_aux as the classifier sees it.

    Attributes:
        head: f_c.
        features: E of its individuals, in double precision, shape (n, d).
        individuals: its individuals, to draw from.
        standard: mean and deviation of the features.
        z_deviation: standard deviation of z of the first layer.
    """

    head: Head
    features: Tensor
    individuals: Auxiliary
    standard: Standard
    z_deviation: float

    @classmethod
    def of(cls, head: Head, features: Tensor, individuals: Auxiliary) -> Population:
        """Return D_aux, of features (n, d), before a classifier."""
        by = Standardisation.of(features)
        features = features.to(head.first.weight)
        standard = Standard(by.mean.to(features), by.deviation.to(features))
        z = head.first.forward(features)
        return cls(head, features, individuals, standard, max(float(z.std()), TINY))


@dataclass(frozen=True)
class FeatureProblem:
    """What is to be matched for one victim batch.

    Attributes:
        residual: g̃_c − g_c.
        gradients: g_c, of the batch's loss: each layer's gradient of [W, b].
        population: D_aux.
        labels: with which the dummies start, shape (B,).
        generator: of the starts.
    """

    residual: Residual
    gradients: Sequence[Tensor]
    population: Population
    labels: Tensor
    generator: torch.Generator

    @classmethod
    def of(
        cls,
        population: Population,
        update: Mapping[str, Tensor],
        labels: Tensor,
        joint: bool,
        seed: int,
    ) -> FeatureProblem | None:
        """Return the problem of an update; None if the first layer's gradient is zero.

        Args:
            labels: shape (B,), of the dummies, or where they start if labels are optimised jointly.
            seed: of the starts.
        """
        head, size = population.head, len(labels)
        gradients = [layer.gradient(update) for layer in head.layers]
        if not bool(gradients[0].any()):
            return None
        precision = precision_of(head, update)
        space = coordinates_of(
            gradients[0], size, precision, population.features, population.standard
        )
        summed = [head.loss.denominator(labels) * gradient for gradient in gradients]
        targets = [summed[0] @ space.basis * space.scale, *summed[1:]]
        return cls(
            residual=Residual(head, space, targets, joint),
            gradients=gradients,
            population=population,
            labels=labels.to(population.features.device),
            generator=torch.Generator().manual_seed(seed),
        )

    def start(self, runs: int) -> Dummies:
        """Draw dummies from D_aux, of the labels they have, or have at first."""
        people, count = self.population, len(self.labels)
        rows = [people.individuals.draw(self.labels, count, self.generator) for _ in range(runs)]
        drawn = people.features[torch.stack(rows).to(people.features.device)]
        own = functional.one_hot(self.labels, people.head.classes).to(drawn)
        if self.residual.joint:
            own = UNSURE / people.head.classes + (1 - UNSURE) * own
        return Dummies(
            self.residual.space.nearest(drawn, people.standard),
            own.log().expand(runs, -1, -1),
        )

    def features(self, dummies: Dummies) -> Tensor:
        """Return the features of dummies, R = 1, shape (B, d)."""
        return self.residual.space.features(dummies.unknowns[0])

    def loss(self, dummies: Dummies) -> float:
        """Return d(g_c, g̃_c) of Eq. 3 for dummies, R = 1, its kernel's σ² being ‖g_c‖²."""
        target = {str(n): gradient[None] for n, gradient in enumerate(self.gradients)}
        divided_by = self.population.head.loss.denominator(self.labels)
        made = self.residual.gradients(dummies, divided_by)
        own = {str(n): gradient for n, gradient in enumerate(made)}
        return float(cosine_gaussian_distance(own, target, 1.0))


UNSURE = 0.1
"""Share of other classes in the soft labels that are optimised, at the start."""

TINY = 1e-12
"""Least deviation of z; features of D_aux may all be equal."""
