"""How long demixing searches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SearchBudget:
    """How long to search for the individuals of one victim batch.

    Attributes:
        rounds: of Newton's method, at most.
        runs: of Newton's method, side by side.
        patience: rounds without a new individual after which Newton's method ends.
        reflections: iterations of relaxed reflections, at most.
        reflection_patience: iterations without a new individual after which they end.
        reflection_runs: runs of relaxed reflections, side by side.
    """

    rounds: int
    runs: int
    patience: int
    reflections: int = 0
    reflection_patience: int = 0
    reflection_runs: int = 0
