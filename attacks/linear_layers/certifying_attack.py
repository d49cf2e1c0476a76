"""What exact attacks share: certain individuals, and a fallback's answer for the others."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from leakbench.attacks.linear_layers.auxiliary_fallback import auxiliary_result, has_finite_update
from leakbench.attacks.linear_layers.demixing.recovered import RecoveredIndividuals
from leakbench.attacks.linear_layers.with_fallback import WithFallback
from leakbench.base.errors import UsageError
from leakbench.federation.batch_norm import batch_norm_layers
from leakbench.federation.shared_model import SharedModel
from leakbench.metrics.matching import match_individuals
from leakbench.threat.attack import AttackResult, Progress, part_of
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@dataclass(frozen=True, kw_only=True)
class CertifyingAttack(WithFallback):
    """Finds individuals with certainty; another attack answers for those it does not find.

    Where not all individuals of a batch are found, the fallback attacks the whole update, and its
    reconstructions answer for the others.

    Attributes:
        fallback: name of the attack that answers for individuals that are not found; it must
            reconstruct features.
        fallback_parameters: of that attack. Suites and `--set` give them by their own names beside
            those above, such as `budget`. `feature` has `labels=counts` by default here.
    """

    note = (
        "budget and labels are the fallback's, for batches that are not found exactly; the search "
        "itself computes no gradient"
    )
    example_parameters: ClassVar = {"budget": 8}

    @property
    def required_knowledge(self) -> Knowledge:
        """The model, the update and D_aux, and what the fallback needs."""
        own = Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY
        return own | self.fallback_attack.required_knowledge

    @abstractmethod
    def recovered(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[RecoveredIndividuals]:
        """Return the individuals of each victim batch, as far as they are found.

        Raises:
            UsageError: the model, or how clients run it, is not what the attack is for.
        """

    def work(self, batch_size: int) -> float:
        """The work of a search that finds all; one that does not may take ten times as much."""
        return SEARCH * (1 + 8 / batch_size)

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Find individuals of each batch; where some are not certain, let the fallback answer."""
        recovered = self.recovered(server, observations, part_of(progress, 0, 2))
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


def refuse_other_losses(model: SharedModel, attack: str) -> None:
    """Refuse losses other than the mean cross-entropy of several logits.

    Raises:
        UsageError: says what to take.
    """
    if not model.loss.is_plain:
        raise UsageError(
            f"attack {attack!r} demixes the gradient of the mean cross-entropy, and clients "
            f"compute {model.loss.in_words}; take mask_demixing, split before hidden linear layers"
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
    claimed = torch.ones_like(certified)
    if fallback is not None:
        assert labels is not None and fallback.features is not None
        others = unmatched(features, fallback.features)
        features = torch.cat([features, fallback.features[others]])
        labels = None if fallback.labels is None else torch.cat([labels, fallback.labels[others]])
        certified = torch.cat([certified, certified.new_zeros(len(others))])
        claimed = torch.cat([claimed, claimed.new_zeros(len(others))])
    return AttackResult(
        scores=server.feature_space.property_model(features),
        features=features,
        labels=labels,
        certified=certified,
        claimed=claimed,
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
