"""Control: what matching alone earns, without any look at the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from bench.registry import register_attack
from bench.threat import Attack, Inference, Knowledge, Observation, Progress, Server


@register_attack("blind")
@dataclass(frozen=True, kw_only=True)
class Blind(Attack):
    """Answers with the features of random individuals of D_aux, matched like any attack's.

    Reconstructions come unordered and are matched to individuals by feature, with the truth at
    hand. That alone lifts accuracy above chance. An attack has learnt from the update only what it
    achieves above this control.
    """

    title = "Blind"
    reference = "control"
    control = True

    @property
    def needs(self) -> Knowledge:
        """D_aux, and the model to see it through."""
        return Knowledge.MODEL | Knowledge.AUXILIARY

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[Inference]:
        """Return B random auxiliary features for each batch, and what f_p reads off them."""
        assert server.auxiliary is not None
        progress(1.0)
        features = server.auxiliary.features
        inferences = []
        for observation in observations:
            generator = torch.Generator().manual_seed(observation.seed)
            rows = torch.randperm(len(features), generator=generator)[: observation.batch_size]
            chosen = features[rows.to(features.device)]
            inferences.append(
                Inference(scores=server.auxiliary.property_model(chosen), features=chosen)
            )
        return inferences
