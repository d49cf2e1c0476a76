"""Control: what the main-task labels alone tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from leakbench.base.registry import register_attack
from leakbench.threat.attack import Attack, AttackResult, Progress
from leakbench.threat.batch_labels import LabelSource, knowledge_for_labels, labels_of_batches
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Auxiliary, Server


@register_attack("labels")
@dataclass(frozen=True, kw_only=True)
class LabelsAlone(Attack):
    """Answers, for each label of the batch, with D_aux's mean feature and share of the property.

    Label baseline. The score of an individual with label l is the balanced share of the property,
    P(l | present) / (P(l | present) + P(l | absent)) in D_aux, so that ½ is the best threshold for
    balanced accuracy. A label that D_aux lacks gets the mean feature of all, and ½. Beyond its
    labels it uses nothing of the update.

    Attributes:
        labels: `known` ones are granted; `counts` are recovered from the update, as attacks with
            `labels=counts` recover them; `ignored` answers as for a label that D_aux lacks. The
            fair baseline of an attack knows of the labels what the attack knows.
    """

    title = "Labels"
    reference = "control"
    control = "baseline"
    is_label_baseline = True
    is_random = False

    labels: LabelSource = "known"

    @property
    def required_knowledge(self) -> Knowledge:
        """D_aux, the model for its features, and what its labels come from."""
        return Knowledge.MODEL | Knowledge.AUXILIARY | knowledge_for_labels(self.labels)

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Return mean features and balanced shares, an individual's by its label."""
        assert server.auxiliary is not None and server.feature_space is not None
        auxiliary, features = server.auxiliary, server.feature_space.features
        every_labels = labels_of_batches(server, observations, self.labels)
        progress(1.0)
        mean = cache(lambda label: mean_feature(auxiliary.labels, features, label))
        shares = cache(lambda label: balanced_shares(auxiliary, label))
        results = []
        for observation, labels in zip(observations, every_labels, strict=True):
            taken = [UNKNOWN] * observation.batch_size if labels is None else labels.tolist()
            scores = {
                name: torch.tensor([shares(label)[name] for label in taken]).to(features)
                for name in auxiliary.properties
            }
            features_of = torch.stack([mean(label) for label in taken])
            results.append(AttackResult(scores=scores, features=features_of))
        return results


UNKNOWN = -2
"""A label that D_aux never has."""


def mean_feature(labels: Tensor, features: Tensor, label: int) -> Tensor:
    """Return the mean feature of the individuals with a label, of all where none has it.

    Args:
        labels: of D_aux's individuals, shape (n,).
        features: shape (n, d).
        label: a class.

    Returns:
        Shape (d,).

    >>> labels, features = torch.tensor([0, 0, 1]), torch.tensor([[1.0], [3.0], [8.0]])
    >>> mean_feature(labels, features, 0)
    tensor([2.])
    >>> mean_feature(labels, features, 5)
    tensor([4.])
    """
    having = labels.to(features.device) == label
    return features[having].mean(0) if bool(having.any()) else features.mean(0)


def balanced_shares(auxiliary: Auxiliary, label: int) -> Mapping[str, float]:
    """Return, by property, P(label | present) / (P(label | present) + P(label | absent)) in D_aux.

    ½ where no individual has the label, or where all or none have the property.
    """
    having = auxiliary.labels == label
    found = {}
    for name, of in auxiliary.properties.items():
        present = of.bool()
        if_present, if_absent = (
            float(having[group].float().mean()) if bool(group.any()) else 0.0
            for group in (present, ~present)
        )
        is_defined = bool(present.any()) and not bool(present.all()) and bool(having.any())
        found[name] = if_present / (if_present + if_absent) if is_defined else 0.5
    return found
