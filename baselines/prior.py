"""Control: the majority class of D_aux."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from leakbench.base.registry import register_attack
from leakbench.threat.attack import Attack, AttackResult, Progress
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@register_attack("prior")
@dataclass(frozen=True, kw_only=True)
class Prior(Attack):
    """Majority-class baseline: gives each individual the property's share in D_aux.

    It sees no update. Its balanced accuracy is ½ by construction, its accuracy that of always
    naming the majority class.
    """

    is_random = False
    reconstructs_features = False
    title = "Prior"
    reference = "control"
    control = "baseline"

    @property
    def required_knowledge(self) -> Knowledge:
        """D_aux."""
        return Knowledge.AUXILIARY

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Return the shares of the properties in D_aux."""
        assert server.auxiliary is not None
        progress(1.0)
        shares = {name: p.float().mean() for name, p in server.auxiliary.properties.items()}
        return [
            AttackResult(
                scores={name: share.repeat(o.batch_size) for name, share in shares.items()}
            )
            for o in observations
        ]
