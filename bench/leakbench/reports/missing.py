"""What tables lack: rows without data, cells that were not measured, cells that failed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from leakbench.base.registry import DATASETS
from leakbench.experiments.descriptions import describe
from leakbench.metrics.formatting import MISSING, counted
from leakbench.records.measured import Measured
from leakbench.reports.rows import Row
from leakbench.reports.tables import Table

ROWS_NAMED = 12
"""Settings without data that a note names."""


def rows_without_data(table: Table) -> str:
    """Return a note that names a table's rows without data; empty where all rows have some."""
    empty = [row.leading for row in table.rows if not row.has_data]
    if not empty:
        return ""
    if len(empty) == len(table.rows):
        return f"No data: none of {counted(len(empty), 'row')} has been measured."
    columns = zip(*(row.leading for row in table.rows), strict=True)
    differing = {
        heading
        for heading, values in zip(table.leading, columns, strict=True)
        if heading != "property" and len(set(values)) > 1
    }
    properties: dict[str, list[str]] = {}
    for row in empty:
        properties.setdefault(_setting(table, row, differing), []).append(_property(table, row))
    every = {_property(table, row.leading) for row in table.rows}
    named = [
        setting if set(names) == every else f"{setting}: {', '.join(names)}".removeprefix(": ")
        for setting, names in properties.items()
    ]
    more = len(named) - ROWS_NAMED
    named[ROWS_NAMED:] = [f"and {more} more"] if more > 0 else []
    return f"No data for {counted(len(empty), 'row')}: {'; '.join(named)}."


def _property(table: Table, row: Row) -> str:
    return row[table.leading.index("property")] if "property" in table.leading else ""


def _setting(table: Table, row: Row, headings: Collection[str]) -> str:
    """Return a row's leading values under some of the headings."""
    return ", ".join(
        f"{heading} = {value}"
        for heading, value in zip(table.leading, row, strict=True)
        if heading in headings
    )


FAILURES_NAMED = 20
"""Failed cells that a report's file names."""

LONGEST_ERROR = 300
"""Characters of an error in a report's file."""


def missing_lines(cells: Sequence[Measured], brief: bool = False) -> list[str]:
    """Return sentences on cells that are not measured, or failed.

    Args:
        brief: whether to cut long errors, and many of them.
    """
    unique = {m.entry.key: m for m in cells}.values()
    missing = sum(m.record is None and not m.entry.optional for m in unique)
    lines = [f"{missing} of {len(unique)} cells are not measured yet ({MISSING})."] * bool(missing)
    lines += _needs(unique)
    failures = [
        f"Failed: {describe(m.entry)}: {m.record.error}"
        for m in unique
        if m.record is not None and m.record.status == "failed"
    ]
    if not brief:
        return lines + failures
    cut = [f if len(f) <= LONGEST_ERROR else f"{f[:LONGEST_ERROR]}…" for f in failures]
    more = len(cut) - FAILURES_NAMED
    return [*lines, *cut[:FAILURES_NAMED], *[f"{more} more cells failed."] * (more > 0)]


def _needs(cells: Iterable[Measured]) -> list[str]:
    """Return how to get each data set without which optional cells are not measured."""
    absent = dict.fromkeys(
        m.entry.cell.dataset for m in cells if m.entry.optional and m.record is None
    )
    return [
        f"{name} ({MISSING}) needs {DATASETS.get(name).source}; put it into "
        f"DIR/{DATASETS.get(name).folder} and pass --data-root DIR."
        for name in absent
    ]
