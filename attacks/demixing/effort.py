"""How long demixing searches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How long to search for the individuals of one victim batch.

    Attributes:
        reflections: iterations of relaxed reflections, where they apply.
        quiet: iterations without anybody new after which these end.
        reflected: runs of these side by side.
        rounds: of Newton's method, where that applies.
        runs: of this side by side.
        patience: rounds without anybody new after which it ends.
    """

    reflections: int
    quiet: int
    reflected: int
    rounds: int
    runs: int
    patience: int
