"""A suite entry with its record."""

from __future__ import annotations

from dataclasses import dataclass

from leakbench.experiments.expansion import SuiteEntry
from leakbench.records.record import Cost, Record
from leakbench.records.verified import Remeasured


@dataclass(frozen=True, slots=True)
class Measured:
    """An entry of a suite and the record of its cell, if it has been measured.

    Attributes:
        again: what came of measuring the cell once more, if that was done; see `leakbench verify`.
    """

    entry: SuiteEntry
    record: Record | None
    again: Remeasured | None = None

    @property
    def cost(self) -> Cost | None:
        """Time and memory that the cell took; None where they are not known."""
        return None if self.record is None else self.record.cost
