"""Membership inference from the row space of a layer's gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.certifying_attack import refuse_batch_statistics
from leakbench.attacks.linear_layers.demixing.gradient_space import precision_of, rank_of
from leakbench.attacks.linear_layers.head import Head, head_of
from leakbench.base.registry import register_attack
from leakbench.federation.shared_model import deep_features
from leakbench.threat.attack import Attack, AttackResult, Progress
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@register_attack("row_space")
@dataclass(frozen=True, kw_only=True)
class RowSpace(Attack):
    """Scores for each candidate whether it is in the batch, by a distance.

    The gradient of the first layer after the split is Σ_i x_i [h_i, 1]ᵀ. So as long as B ≤ m and d,
    [h, 1] of every individual of the batch lies in its row space, and that of no other individual
    does: the score is minus the relative distance from it. It needs neither a search nor labels.
    The B nearest candidates are its answer for the individuals of the batch.
    """

    is_random = False
    title = "Row space"
    reference = (
        "Petrov, Dimitrov, Baader, Müller, Vechev 2024, DAGER: Exact Gradient Inversion for Large "
        "Language Models (NeurIPS), arXiv 2405.15586, whose span check of tokens is here one of "
        "individuals"
    )
    note = "it knows candidates, half of which are in the batch, and answers with the B nearest"

    @property
    def required_knowledge(self) -> Knowledge:
        """The update, the model for candidates' features, D_aux for f_p, and candidates."""
        return Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY | Knowledge.CANDIDATES

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Return each candidate's distance from its batch's row space."""
        assert server.model is not None and server.feature_space is not None
        refuse_batch_statistics(server, self.name)
        head = head_of(server.model, self.name)
        results = []
        for number, observation in enumerate(observations):
            assert observation.update is not None and observation.candidates is not None
            features = deep_features(server.model, observation.candidates)
            outside = distances(head, observation.update, observation.batch_size, features)
            nearest = features[outside.argsort(stable=True)[: observation.batch_size]]
            results.append(
                AttackResult(
                    scores=server.feature_space.property_model(nearest),
                    features=nearest,
                    membership=-outside,
                )
            )
            progress((number + 1) / len(observations))
        return results


def distances(
    head: Head, update: Mapping[str, Tensor], individuals: int, features: Tensor
) -> Tensor:
    """Return how far [h, 1] are from the row space of the first layer's gradient, relative.

    Args:
        individuals: B, at most the dimension of the space.
        features: h, shape (n, d).

    Returns:
        Shape (n,); all 1 if the update is not finite.
    """
    gradient = head.first.gradient(update)
    if not gradient.isfinite().all():
        return features.new_ones(len(features))
    _, values, rows = torch.linalg.svd(gradient, full_matrices=False)
    basis = rows[: min(rank_of(values, precision_of(head, update)), individuals)].mT
    extended = functional.pad(features.to(basis), (0, 1), value=1.0)
    outside = extended - (extended @ basis) @ basis.mT
    relative: Tensor = outside.norm(dim=1) / extended.norm(dim=1)
    return relative.to(features)
