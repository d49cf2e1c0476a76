"""Records as cells of no suite, in the order in which tables of all records have them."""

from __future__ import annotations

from collections.abc import Sequence

from leakbench.base.plugins import SharedPlugins
from leakbench.experiments.defense_labels import defense_text
from leakbench.experiments.descriptions import auxiliary_name
from leakbench.experiments.expansion import SuiteEntry
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.records.measured import Measured
from leakbench.records.record import Record


def measured(record: Record, plugins: SharedPlugins) -> Measured:
    """Return a record as an entry of no suite, in a column with its attack's title."""
    resolved = ResolvedCell.of(record.cell, plugins)
    entry = SuiteEntry(resolved, record.key, "", "table1", resolved.attack.title)
    return Measured(entry, record)


def measured_in_order(records: Sequence[Record]) -> list[Measured]:
    """Return records as `measured`, by attack, data, main task, batch size and defense."""
    plugins = SharedPlugins()
    return [measured(record, plugins) for record in in_reading_order(records)]


def in_reading_order(records: Sequence[Record]) -> list[Record]:
    """Return records by attack, data, main task, batch size and defense."""

    def order(record: Record) -> tuple[object, ...]:
        cell = record.cell
        data = (cell.dataset, auxiliary_name(cell), cell.main_task, cell.batch_size)
        return (cell.attack, *data, cell.defense, defense_text(cell), record.key)

    return sorted(records, key=order)
