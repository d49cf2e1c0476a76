"""A suite entry with its record."""

from __future__ import annotations

from dataclasses import dataclass

from leakbench.experiments.expansion import SuiteEntry
from leakbench.records.record import Record


@dataclass(frozen=True)
class Measured:
    """An entry of a suite and the record of its cell, if it has been measured."""

    entry: SuiteEntry
    record: Record | None
