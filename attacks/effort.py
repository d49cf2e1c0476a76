"""How long demixing searches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How long to search for the individuals of one victim batch.

    Attributes:
        reflections: iterations of relaxed reflections, where they apply.
        reflected: runs of these side by side.
        rounds: of Newton's method.
        runs: of this side by side.
        patience: rounds without anybody new after which the search ends.
    """

    reflections: int
    reflected: int
    rounds: int
    runs: int
    patience: int
