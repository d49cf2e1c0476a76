"""Control: what matching alone earns, without any look at the update."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from leakbench.base.registry import register_attack
from leakbench.threat.attack import Attack, AttackResult, Progress
from leakbench.threat.batch_labels import LabelSource, knowledge_for_labels, labels_of_batches
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@register_attack("blind")
@dataclass(frozen=True, kw_only=True)
class Blind(Attack):
    """Answers with the features of random individuals of D_aux, matched like any attack's.

    Random-auxiliary baseline, in expectation: a cell measures many draws, since one draw varies by
    two to four points. Reconstructions are unordered and are matched to individuals by feature,
    using the truth. That alone lifts accuracy above chance, and so do labels where the main task is
    related to a property. Beyond its labels it uses nothing of the update.

    Attributes:
        labels: `known` draws, for each label of the batch, an individual of D_aux that has it;
            `counts` does so for labels recovered from the update, as attacks with `labels=counts`
            recover them; `ignored` draws any individuals. The fair baseline of an attack knows of
            the labels what the attack knows.
    """

    version = 2
    title = "Blind"
    reference = "control"
    control = "baseline"
    least_runs = 64

    labels: LabelSource = "known"

    @property
    def required_knowledge(self) -> Knowledge:
        """D_aux, the model for its features, and what its labels come from."""
        return Knowledge.MODEL | Knowledge.AUXILIARY | knowledge_for_labels(self.labels)

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Return B random auxiliary features for each batch, and their properties by f_p."""
        assert server.auxiliary is not None and server.feature_space is not None
        space = server.feature_space
        every_labels = labels_of_batches(server, observations, self.labels)
        progress(1.0)
        results = []
        for observation, labels in zip(observations, every_labels, strict=True):
            generator = torch.Generator().manual_seed(observation.seed)
            rows = server.auxiliary.draw(labels, observation.batch_size, generator)
            features = space.features[rows]
            results.append(AttackResult(scores=space.property_model(features), features=features))
        return results
