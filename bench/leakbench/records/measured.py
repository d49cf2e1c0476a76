"""A cell of a suite with its record."""

from __future__ import annotations

from dataclasses import dataclass

from leakbench.experiments.suite import SuiteEntry
from leakbench.records.record import Record


@dataclass(frozen=True)
class Measured:
    """A cell's place in a suite and its record, if it has been measured."""

    entry: SuiteEntry
    record: Record | None
