"""Token demixing: exact features from transformers that classify by one token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from leakbench.attacks.demixable_ends.registry import end_of
from leakbench.attacks.linear_layers.auxiliary_fallback import has_finite_update
from leakbench.attacks.linear_layers.certifying_attack import CertifyingAttack, refuse_other_losses
from leakbench.attacks.linear_layers.demixing.recovered import RecoveredIndividuals
from leakbench.attacks.token_ends.end import TokenEnd
from leakbench.attacks.token_ends.individuals import no_individuals, recovered_individuals
from leakbench.attacks.token_ends.rules import TOKEN
from leakbench.attacks.token_ends.search import TokenSearch, token_gradient
from leakbench.base.registry import register_attack
from leakbench.federation.shared_model import SharedModel
from leakbench.threat.attack import Progress
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@register_attack("token_demixing")
@dataclass(frozen=True, kw_only=True)
class TokenDemixing(CertifyingAttack):
    """Finds each individual's feature exactly in transformers that classify by one token.

    In the last block only that token h_i reaches the loss, so the gradient of its MLP's first layer
    is G = Σ_i x_i [h_i, 1]ᵀ over the B individuals, with x_i = φ′(W_1 h_i + b_1) ⊙ W_2ᵀ δ_i. So

    1. [h_i, 1] is in the row space of G, x_i in its column space, δ_i in the column space of the
       second layer's gradient: Newton's method solves m − B equations for 2 B − 2 unknowns;
    2. every token that is found takes a dimension from the space of the others;
    3. δ_i tells the label and the deviation that LayerNorm took away, and so the feature;
    4. δ_i again and the gradients of the layers behind certify it without the truth.

    Labels need not be known. Images, texts or rows are the same to it.

    Attributes:
        rounds: of Newton's method, at most.
        runs_at_once: runs of Newton's method.
        patience: rounds without a new individual after which the search ends.
    """

    title = "Token demixing"
    reference = (
        "none for the attack; its search: Levenberg 1944, Marquardt 1963; its fallback: Yang, "
        "Wang, Li 2022, Individual Property Inference over Collaborative Learning in Deep Feature "
        "Space (ICME)"
    )
    example_setup: ClassVar[Mapping[str, Any]] = {
        "model": "vit_small",
        "model_parameters": {"input_size": 32, "patch": 16, "hidden_layers": 0},
        "dataset_parameters": {"individuals": 200},
        "main_task": "hat",
        "rounds": 0,
    }
    example_parameters: ClassVar = {"budget": 2, "rounds": 2, "runs_at_once": 4}

    rounds: Annotated[int, Field(ge=0)] = 100
    runs_at_once: Annotated[int, Field(gt=0)] = 16
    patience: Annotated[int, Field(gt=0)] = 10

    def recovered(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[RecoveredIndividuals]:
        """Demix the last MLP's gradient of each batch."""
        assert server.model is not None and server.auxiliary is not None
        refuse_other_losses(server.model, self.name)
        images = server.auxiliary.images[:AUXILIARY]
        end = self.end(server.model, images)
        starts = end.inputs(server.model, images)
        deviations = end.deviations(server.model, images)
        results = []
        for number, observation in enumerate(observations):
            results.append(self._recovered(end, observation, starts, deviations))
            progress((number + 1) / len(observations))
        return results

    def end(self, model: SharedModel, examples: torch.Tensor) -> TokenEnd:
        """Return the part of a model that is demixed.

        Args:
            examples: two or more of its inputs.

        Raises:
            UsageError: it has none; names what was found and what would be needed.
        """
        return end_of(model, examples, TOKEN, TokenEnd, self.name)

    def _recovered(
        self,
        end: TokenEnd,
        observation: Observation,
        starts: torch.Tensor,
        deviations: torch.Tensor,
    ) -> RecoveredIndividuals:
        """Return the individuals of one batch, as far as they are found."""
        assert observation.update is not None
        if not has_finite_update(observation):
            return no_individuals(end)
        gradient = token_gradient(end, observation.update, observation.batch_size)
        if not gradient.is_searchable:
            return no_individuals(end)
        search = TokenSearch(gradient, starts, self.runs_at_once, observation.seed)
        found = search.search(self.rounds, self.patience)
        return recovered_individuals(gradient, found, starts, deviations)


AUXILIARY = 128
"""Inputs of D_aux at whose tokens searches start."""
