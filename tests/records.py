"""Cells of a suite's file, and records made by hand for them."""

from __future__ import annotations

from collections.abc import Sequence

from bench.metrics import Estimate
from bench.override import override
from bench.store import PropertyMetrics
from bench.suite import Planned, expand, load_suite


def planned(suite: str, *settings: str, only: Sequence[str] = ()) -> list[Planned]:
    """Return the cells of a suite's file with these settings."""
    name, content = load_suite(suite)
    return expand(name, override(content, settings), only)


def all_alike(estimate: Estimate) -> PropertyMetrics:
    """Return metrics of a property that are one estimate throughout."""
    return PropertyMetrics(
        accuracy=estimate,
        balanced_accuracy=estimate,
        auc=estimate,
        count_error=estimate,
        prevalence=0.5,
        in_main_task=False,
    )
