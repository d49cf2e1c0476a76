"""The proposed attack without the detour through images: dummies are deep features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from leakbench.attacks.feature_matching.feature_problem import FeatureProblem, Population
from leakbench.attacks.feature_matching.search import search
from leakbench.attacks.linear_layers.auxiliary_fallback import auxiliary_result, has_finite_update
from leakbench.attacks.linear_layers.certifying_attack import refuse_batch_statistics
from leakbench.attacks.linear_layers.head import head_of
from leakbench.base.errors import UsageError
from leakbench.base.registry import register_attack
from leakbench.threat.attack import Attack, AttackResult, Progress, part_of
from leakbench.threat.batch_labels import expected_predictions
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.label_recovery import Scheme, recover_labels
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server

Labels = Literal["known", "joint", Scheme]


@register_attack("feature_direct")
@dataclass(frozen=True, kw_only=True)
class DirectFeatureReconstruction(Attack):
    """Matches the gradient g_c with dummies that are deep features (after Yang, Wang, Li 2022).

    1. Dummy features h̃ and labels ỹ, with the gradient g̃_c of f_c (Eq. 1).
    2. Minimise d(g_c, g̃_c), the part of Eq. 2 that the features alone determine.
    3. E(X) := h̃* at the best h̃ (Eq. 4), and f_p(E(X)) answers every property.

    For a classifier of linear layers and activations, of which all gradients are sent; the feature
    extractor may be frozen. g_c is Σ_i x_i [h_i, 1]ᵀ in the first layer, of B individuals' errors
    x_i and features h_i, and likewise in the others. The paper names no optimiser; this one is
    chosen so that the search fails as seldom as possible:

    - Features are sought in the row space of the first layer's gradient, where they are if its rank
      is B: B − 1 unknowns each. Where it is less (an output layer alone), in the row space and the
      principal directions of D_aux.
    - Near its minimum Eq. 3 is a multiple of ‖g̃ − g‖² / ‖g‖². That is minimised, layer by layer, by
      Levenberg's and Marquardt's method, in double precision. Rows of the first layer's gradient
      are first divided by the root of the singular values. Otherwise individuals of whose label
      the model is nearly sure hardly count.
    - Kinks of ReLU are softened at first, and sharpened in stages: otherwise the search stops where
      a unit would have to be switched.
    - Dummies start from individuals of D_aux with their labels. Several runs go side by side, and
      unless one matches g_c to its rounding, others start in another attempt of twice the length.

    It certifies nothing, and uses nothing of a defense but that the update is its outcome.
    mask_demixing finds the same features, also of larger batches, by no matching at all.

    Attributes:
        budget: evaluations of the dummies' g_c with its derivatives for each victim batch, all runs
            and attempts together.
        runs: side by side.
        attempts: at most; each has twice the budget of the one before, divided between the runs.
        labels: `known` labels are granted; `joint` ones are optimised with the features, one soft
            label for each individual, from those that `counts` recovers; any other is a scheme of
            label recovery, run first.
    """

    title = "Proposed, direct"
    reference = (
        "Yang, Wang, Li 2022, Individual Property Inference over Collaborative Learning in Deep "
        "Feature Space (ICME), doi 10.1109/ICME52920.2022.9859857; its optimiser: Levenberg 1944, "
        "Marquardt 1963"
    )
    note = "an evaluation is one of the classifier's gradient with its derivatives by the features"
    example_parameters: ClassVar = {"budget": 32, "runs": 2, "attempts": 2}

    budget: Annotated[int, Field(gt=0)] = 1400
    runs: Annotated[int, Field(gt=0)] = 4
    attempts: Annotated[int, Field(gt=0)] = 3
    labels: Labels = "known"

    def __post_init__(self) -> None:
        if self.budget < self.runs:
            raise ValueError(f"budget must be at least one evaluation for each of {self.runs} runs")

    @property
    def required_knowledge(self) -> Knowledge:
        """The model, the update and D_aux; labels too if they are to be known."""
        base = Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY
        return base | Knowledge.LABELS if self.labels == "known" else base

    def work(self, batch_size: int) -> float:
        """The work of all evaluations, which grows with the square of B for each individual."""
        return self.budget * (FIXED / batch_size + GROWING * batch_size**2)

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Search each batch by itself, its runs side by side.

        Batches computed together would be rounded differently, and whether a step is taken may
        depend on rounding: a result would depend on other batches.
        """
        assert server.model is not None and server.feature_space is not None
        assert server.auxiliary is not None
        refuse_batch_statistics(server, self.name)
        head = head_of(server.model, self.name)
        if self.labels == "joint" and not head.loss.is_plain:
            raise UsageError(
                f"attack {self.name!r} optimises labels for the mean cross-entropy only, and "
                f"clients compute {head.loss.in_words}; take labels=counts"
            )
        population = Population.of(head, server.feature_space.features, server.auxiliary)
        expected = expected_predictions(server) if self.labels in {"counts", "joint"} else None
        results = []
        for number, observation in enumerate(observations):
            part = part_of(progress, number, len(observations))
            result = None
            if has_finite_update(observation):
                of_dummies = self._labels(server, observation, expected)
                result = self._result(server, population, observation, of_dummies, part)
            results.append(result or auxiliary_result(server, observation))
            part(1.0)
        progress(1.0)
        return results

    def _labels(self, server: Server, observation: Observation, expected: Tensor | None) -> Tensor:
        """Return the labels that the dummies have, or start with, shape (B,)."""
        if self.labels == "known":
            assert observation.labels is not None
            return observation.labels
        assert server.model is not None and observation.update is not None
        scheme: Scheme = "counts" if self.labels == "joint" else self.labels
        size = observation.batch_size
        return recover_labels(scheme, server.model, observation.update, size, expected)

    def _result(
        self,
        server: Server,
        population: Population,
        observation: Observation,
        labels: Tensor,
        progress: Progress,
    ) -> AttackResult | None:
        """Return what the search finds; None where the update says nothing."""
        assert server.feature_space is not None and observation.update is not None
        problem = FeatureProblem.of(
            population, observation.update, labels, self.labels == "joint", observation.seed
        )
        if problem is None:
            return None
        iterations = self.budget // self.runs
        found = search(problem, self.runs, self.attempts, iterations, progress)
        features = problem.features(found.dummies)
        if not bool(features.isfinite().all()):
            return None
        features = features.to(server.feature_space.features)
        return AttackResult(
            scores=server.feature_space.property_model(features),
            features=features,
            labels=found.dummies.labels[0].to(labels),
            loss=problem.loss(found.dummies),
            steps=found.evaluations,
            restarts=found.attempts - 1,
        )


FIXED = 2.0
"""Work of an evaluation for a batch, in evaluations of an individual's gradient."""

GROWING = 2e-3
"""The same for each individual, over B²: of JᵀJ an individual has B³ entries, all of few flops."""
