"""Quotient: deep features as quotients of a linear layer's gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from leakbench import (
    Attack,
    AttackResult,
    Knowledge,
    Observation,
    Progress,
    Server,
    register_attack,
)
from leakbench.attacks.linear_layers.auxiliary_fallback import auxiliary_result
from leakbench.attacks.linear_layers.head import head_of


@register_attack("quotient")
@dataclass(frozen=True, kw_only=True)
class QuotientAttack(Attack):
    """Phong et al. 2018: a linear layer's input is the quotient of its gradients.

    1. The first layer after the split has z = W h + b, so that, with x_i = ∂ℓ_i / ∂z of each
       individual, ∂ℓ / ∂W_u is the mean of x_iu h_i over the batch, and ∂ℓ / ∂b_u that of x_iu.
    2. Their quotient q_u is h at B = 1; in a batch it is a mixture of the individuals' h_i.
    3. Of the `units` with the largest |∂ℓ / ∂b_u| those B are taken whose q_u are least alike.
    4. f_p reads every property off them.

    Attributes:
        units: from how many quotients to choose.
    """

    # The column's heading, and the paper under the table. Raise `version` whenever the numbers may
    # change: cells that were measured before are then measured again.
    title = "Quotient"
    reference = (
        "Phong, Aono, Hayashi, Wang, Moriai 2018, Privacy-Preserving Deep Learning via Additively "
        "Homomorphic Encryption (IEEE TIFS), section 3"
    )
    # What makes a run of `leakbench check` quick; this attack is quick anyway.
    example_parameters: ClassVar[dict[str, Any]] = {"units": 16}

    # Parameters: each with a type, a default and a line under `Attributes`.
    units: Annotated[int, Field(gt=0)] = 64

    @property
    def required_knowledge(self) -> Knowledge:
        """The model, the update, and D_aux for f_p; what is not named here is None below."""
        return Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Return one answer for each observed batch, from it and the server alone."""
        answers = []
        for number, observation in enumerate(observations):
            answers.append(self._answer(server, observation))
            progress((number + 1) / len(observations))
        return answers

    def _answer(self, server: Server, observation: Observation) -> AttackResult:
        assert server.model is not None and server.feature_space is not None
        assert observation.update is not None
        # [∂ℓ / ∂W, ∂ℓ / ∂b] of the first layer after the split, shape (m, d + 1).
        gradient = head_of(server.model, self.name).first.gradient(observation.update)
        strongest = gradient[gradient[:, -1].abs().argsort(descending=True)[: self.units]]
        strongest = strongest[strongest[:, -1] != 0]
        if not len(strongest) or not bool(strongest.isfinite().all()):
            return auxiliary_result(server, observation)
        quotients = strongest[:, :-1] / strongest[:, -1:]
        # Whatever is random must be drawn from torch.Generator().manual_seed(observation.seed).
        chosen = quotients[least_alike(quotients, observation.batch_size)]
        features = chosen.to(server.feature_space.features)
        scores = server.feature_space.property_model(features)
        return AttackResult(scores=scores, features=features)


def least_alike(vectors: Tensor, count: int) -> list[int]:
    """Return rows that are unlike each other: the first, then always the least like the chosen.

    Args:
        vectors: shape (n, d).
        count: how many rows; some come twice where there are fewer vectors.
    """
    directions = functional.normalize(vectors)
    chosen = [0]
    while len(chosen) < count:
        nearest = (directions @ directions[torch.tensor(chosen)].T).amax(1)
        chosen.append(int(nearest.argmin()))
    return chosen
