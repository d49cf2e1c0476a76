"""Control: the upper bound of attacks through deep features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leakbench.base.registry import register_attack
from leakbench.threat.attack import Attack, AttackResult, Progress
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@register_attack("oracle")
@dataclass(frozen=True, kw_only=True)
class Oracle(Attack):
    """Reads properties with f_p off the victims' true features, which no server has.

    The only plugin that needs `features`: a cell has to grant them by name.
    """

    title = "Oracle"
    reference = "control"
    control = "upper bound"
    is_random = False

    @property
    def required_knowledge(self) -> Knowledge:
        """The true features, and D_aux to train f_p."""
        return Knowledge.MODEL | Knowledge.AUXILIARY | Knowledge.FEATURES

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Return what f_p reads off the true features."""
        assert server.feature_space is not None
        progress(1.0)
        results = []
        for observation in observations:
            assert observation.features is not None
            scores = server.feature_space.property_model(observation.features)
            results.append(AttackResult(scores=scores, features=observation.features))
        return results
