"""Class-mean features, read off an output layer's gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from leakbench.attacks.linear_layers.auxiliary_fallback import auxiliary_result
from leakbench.attacks.linear_layers.head import Head, head_of
from leakbench.base.errors import UsageError
from leakbench.base.registry import register_attack
from leakbench.threat.attack import Attack, AttackResult, Progress
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.label_recovery import class_mean_features, recover_labels
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@register_attack("class_means")
@dataclass(frozen=True, kw_only=True)
class ClassMeans(Attack):
    """Reconstructs for each individual e_c = ∇W_c / ∇b_c, about its class's mean feature.

    For an output layer alone, whose input h is E(X). e_c is the mean of all h_i weighted by
    p_ic − y_ic: exact at B = 1 and where only one class is predicted with any doubt; the fewer
    classes, the more of the other individuals it has in it, and at K = 2 all are answered alike.

    Attributes:
        labels: `ilrg` reads them off the gradient as the paper does, `known` takes them as granted.
    """

    is_random = False
    title = "Class means"
    reference = (
        "Ma, Sun, Cui, Li, Guo, Liu 2023, Instance-wise Batch Label Restoration via Gradients in "
        "Federated Learning (ICLR), OpenReview FIrQfNSOoTr"
    )
    note = "individuals of one class are answered alike"
    example_setup: ClassVar[Mapping[str, Any]] = {"split": "hidden"}

    labels: Literal["ilrg", "known"] = "ilrg"

    @property
    def required_knowledge(self) -> Knowledge:
        """The model and the update, D_aux for f_p, and the labels if they are to be known."""
        base = Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY
        return base | Knowledge.LABELS if self.labels == "known" else base

    def check_head(self, head: Head) -> None:
        """Refuse a classifier with hidden layers, or whose labels are no classes.

        Raises:
            UsageError: names what to use.
        """
        if len(head.layers) > 1:
            raise UsageError(
                f"attack {self.name!r} needs a classifier that is an output layer alone; take "
                f"split=hidden"
            )

        if head.loss.table:
            raise UsageError(
                f"attack {self.name!r} needs a cross-entropy with a logit for each class, and "
                f"clients compute {head.loss.in_words}; take mask_demixing, before a hidden layer"
            )

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Read labels and class means off each update."""
        assert server.model is not None
        head = head_of(server.model, self.name)
        self.check_head(head)
        answers = [self._answer(server, head, observation) for observation in observations]
        progress(1.0)
        return answers

    def _answer(self, server: Server, head: Head, observation: Observation) -> AttackResult:
        update, size = observation.update, observation.batch_size
        assert server.model is not None and server.feature_space is not None
        assert update is not None
        gradient = head.output.gradient(update)
        if not bool(gradient.isfinite().all()) or not bool(gradient.any()):
            return auxiliary_result(server, observation)
        if self.labels == "known":
            assert observation.labels is not None
            labels = observation.labels
        else:
            labels = recover_labels("ilrg", server.model, update, size)
        means = class_mean_features(gradient[:, :-1], gradient[:, -1])
        features = means.to(labels.device)[labels].to(server.feature_space.features)
        scores = server.feature_space.property_model(features)
        return AttackResult(scores=scores, features=features, labels=labels)
