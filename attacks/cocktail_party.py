"""Cocktail Party: features as independent components of the first layer's gradient."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.auxiliary_fallback import auxiliary_features, auxiliary_result
from leakbench.attacks.linear_layers.demixing.gradient_space import precision_of
from leakbench.attacks.linear_layers.head import Head, head_of
from leakbench.attacks.linear_layers.independent_components import (
    Mixtures,
    Weights,
    unmixed,
    whitened,
)
from leakbench.base.registry import register_attack
from leakbench.threat.attack import Attack, AttackResult, Progress, part_of
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@register_attack("cocktail_party")
@dataclass(frozen=True, kw_only=True)
class CocktailParty(Attack):
    """Separates the features that the rows of a layer's gradient are mixtures of, by ICA.

    See `linear_layers.independent_components`. That features are sparse, of one sign and
    independent is all that is supposed: neither labels nor what the layer would make of a feature
    are used. Independent components have neither sign nor length: here each gets the sign that
    makes it mostly positive, and the mean length of D_aux's features. The defaults of the loss are
    the published ones for features; the learning rate is thirty times the published one, which gets
    as far in a twelfth of the iterations.

    Attributes:
        iterations: of Adam.
        learning_rate: Adam's.
        negative_entropy: weight of how far components are from normally distributed.
        decorrelation: weight of how much components have in common.
        temperature: how much more it costs to have much in common.
        non_negativity: weight of the smaller of a component's two signs.
        sparsity: weight of a component's mean absolute value.
    """

    is_random = False
    title = "Cocktail Party"
    reference = (
        "Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi, Lee 2023, Cocktail Party Attack: Breaking "
        "Aggregation-Based Privacy in Federated Learning Using Independent Component Analysis "
        "(ICML), arXiv 2209.05578"
    )
    example_parameters: ClassVar = {"iterations": 8}
    presets = {"paper": {"iterations": 25_000, "learning_rate": 1e-3}}  # noqa: RUF012

    iterations: Annotated[int, Field(gt=0)] = 2000
    learning_rate: Annotated[float, Field(gt=0)] = 3e-2
    negative_entropy: Annotated[float, Field(ge=0)] = 1.0
    decorrelation: Annotated[float, Field(ge=0)] = 5.3
    temperature: Annotated[float, Field(ge=0)] = 7.7
    non_negativity: Annotated[float, Field(ge=0)] = 0.13
    sparsity: Annotated[float, Field(ge=0)] = 5.0

    @property
    def required_knowledge(self) -> Knowledge:
        """The model and the update, and D_aux for f_p and the length of features."""
        return Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY

    @property
    def weights(self) -> Weights:
        """Of the parts of the loss."""
        return Weights(
            self.negative_entropy,
            self.decorrelation,
            self.temperature,
            self.non_negativity,
            self.sparsity,
        )

    def work(self, batch_size: int) -> float:
        """The work of the iterations."""
        return self.iterations * ITERATION * (1 + 8 / batch_size)

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Separate each batch by itself.

        Batches computed together would be rounded differently, and where rows of U are orthogonal
        the loss has a kink, at which rounding decides: a result would depend on other batches.
        """
        assert server.model is not None
        head = head_of(server.model, self.name)
        answers = []
        for number, observation in enumerate(observations):
            part = part_of(progress, number, len(observations))
            mixtures = _mixtures(head, observation)
            separated = None
            if mixtures is not None:
                separated = unmixed(
                    mixtures, self.weights, self.learning_rate, self.iterations, part
                )
            answers.append(_answer(server, observation, separated))
            part(1.0)
        return answers


def _mixtures(head: Head, observation: Observation) -> Mixtures | None:
    """Return what is separated; None where the update says nothing."""
    assert observation.update is not None
    gradient = head.first.gradient(observation.update)[:, :-1]
    if not bool(gradient.isfinite().all()) or not bool(gradient.any()):
        return None
    return whitened(gradient, observation.batch_size, precision_of(head, observation.update))


def _answer(server: Server, observation: Observation, separated: Tensor | None) -> AttackResult:
    """Return components as features, and individuals of D_aux for those that are missing."""
    assert server.feature_space is not None
    others = server.feature_space.features
    if separated is None or not bool(separated.isfinite().all()):
        return auxiliary_result(server, observation)
    features = upright(separated, float(others.norm(dim=1).mean())).to(others)
    missing = observation.batch_size - len(features)
    if missing:
        features = torch.cat([features, auxiliary_features(server, observation, missing)])
    return AttackResult(scores=server.feature_space.property_model(features), features=features)


def upright(components: Tensor, length: float) -> Tensor:
    """Return components (n, d) mostly positive and of that length.

    >>> upright(torch.tensor([[-3.0, -4.0], [0.0, 2.0]]), 1.0)
    tensor([[0.6000, 0.8000],
            [0.0000, 1.0000]])
    """
    positive, negative = components.relu().norm(dim=1), (-components).relu().norm(dim=1)
    sign = torch.where(positive >= negative, 1.0, -1.0)
    return length * functional.normalize(components * sign[:, None], dim=1)


ITERATION = 0.1
"""Work of an iteration for an individual of a large batch, in evaluations of its gradient."""
