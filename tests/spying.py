"""An attack that keeps what it is shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from leakbench.threat.attack import Attack, AttackResult, Progress
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@dataclass(frozen=True, kw_only=True)
class Spy(Attack):
    """Keeps the servers and what it observes, and answers 0.5."""

    name = "spy"

    servers: list[Server] = field(default_factory=list)
    seen: list[Observation] = field(default_factory=list)

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        self.servers.append(server)
        self.seen.extend(observations)
        return [
            AttackResult(scores={n: torch.full((o.batch_size,), 0.5) for n in server.properties})
            for o in observations
        ]
