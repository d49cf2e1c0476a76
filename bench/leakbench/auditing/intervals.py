"""When the bootstrap gives intervals in an audit."""

from __future__ import annotations

from collections.abc import Sequence

from leakbench.evaluation.scoring import groupings_of
from leakbench.metrics.estimates import MIN_GROUPS
from leakbench.threat.observation import GroundTruth


def enough_for_intervals(truths: Sequence[GroundTruth]) -> bool:
    """Whether there are enough batches, and people where one is shown twice, for intervals."""
    return all(len(set(groups.tolist())) >= MIN_GROUPS for groups in groupings_of(truths))
