"""When the bootstrap intervals of an audit can be believed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel

from leakbench.evaluation.scoring import groupings_of
from leakbench.metrics.estimates import Estimate
from leakbench.threat.observation import GroundTruth

MIN_GROUPS = 5
"""Batches, and people where one is shown twice, below which no interval is given."""

Estimates = TypeVar("Estimates")


def enough_for_intervals(truths: Sequence[GroundTruth]) -> bool:
    """Whether the bootstrap has enough groups to resample that its intervals can be believed."""
    return all(len(set(groups.tolist())) >= MIN_GROUPS for groups in groupings_of(truths))


def without_intervals(estimates: Estimates) -> Estimates:
    """Return an estimate, or a model or dictionary of estimates, without their intervals."""
    changed: Any = estimates
    if isinstance(estimates, Estimate):
        changed = estimates.model_copy(update={"low": None, "high": None})
    elif isinstance(estimates, BaseModel):
        parts = {name: without_intervals(part) for name, part in estimates}
        changed = estimates.model_copy(update=parts)
    elif isinstance(estimates, dict):
        changed = {name: without_intervals(part) for name, part in estimates.items()}
    return changed  # type: ignore[no-any-return]
