"""How long demixing searches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How long to search for the individuals of one victim batch.

    Attributes:
        rounds: of Newton's method, where that applies.
        runs: of this side by side.
        patience: rounds without anybody new after which it ends.
        reflections: iterations of relaxed reflections, where they apply.
        quiet: iterations without anybody new after which these end.
        reflected: runs of these side by side.
    """

    rounds: int
    runs: int
    patience: int
    reflections: int = 0
    quiet: int = 0
    reflected: int = 0
