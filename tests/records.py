"""Cells of a suite's file, and records made by hand for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leakbench.experiments.expansion import SuiteEntry, expand
from leakbench.experiments.overrides import override
from leakbench.experiments.suite import load_suite
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.records.record import Cost, Metrics, PropertyMetrics, Record
from leakbench.reports.suite_report import main_tables


def suite_entries(suite: str, *settings: str, only: Sequence[str] = ()) -> list[SuiteEntry]:
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


def version_of(entry: SuiteEntry) -> int:
    """Return the version of the cell's attack that the cell's key was made with."""
    return next(version for version in range(100) if entry.cell.key(version) == entry.key)


def record_of(entry: SuiteEntry, properties: Mapping[str, Estimate], **fields: Any) -> Record:
    """Return a cell's record with these estimates.

    Args:
        fields: of its metrics; those that are not told and can be None are None.
    """
    unknown = {"feature_cosine": None, "exact": None, "label_accuracy": None, "diverged": 0.0}
    of_properties = {name: all_alike(estimate) for name, estimate in properties.items()}
    return Record(
        key=entry.key,
        cell=entry.cell,
        attack_version=version_of(entry),
        status="done",
        metrics=Metrics(properties=of_properties, **unknown | fields),
    )


def measured(entry: SuiteEntry, seconds: float = 10.0) -> Record:
    """Return a record by which half of everything was right, after some seconds."""
    half = Estimate(value=0.5, low=0.4, high=0.6)
    shared = {"accuracy": 0.5, "most_frequent_class": 0.5}
    of_properties = dict.fromkeys(entry.cell.properties, half)
    found = record_of(entry, of_properties, main_task=shared, classes=2)
    return found.model_copy(update={"cost": Cost(seconds=seconds, steps=1, peak_memory_mib=1)})


def table_rows(cells: Sequence[Measured]) -> list[list[str]]:
    """Return the cells of all lines of the main tables."""
    lines = [line for line in main_tables(cells).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
