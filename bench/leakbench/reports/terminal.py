"""A suite's result on a terminal: a conclusion, and tables that fit its width."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import fmean

from rich.console import Console
from rich.text import Text

from leakbench.base.terminal_tables import Column, clean, print_table
from leakbench.metrics.formatting import MISSING
from leakbench.records.measured import Measured
from leakbench.reports.conclusion import conclusion
from leakbench.reports.missing import missing_lines, rows_without_data
from leakbench.reports.tables import UNMEASURED, Role, Table, TableRow, by_group, table_of

BEST = (
    "★: the best attack of its row; its interval lies above those of all other attacks and above "
    "that of the best baseline with its knowledge."
)


def print_report(console: Console, cells: Sequence[Measured]) -> None:
    """Print the conclusion, a table for each group, and what is missing."""
    result = conclusion(cells)
    _say(console, result.headline, style="bold")
    _say(console, result.details)
    for of_group in by_group(cells).values():
        console.print()
        _print_table(console, table_of(of_group))
    for line in missing_lines(cells, brief=True):
        _say(console, line)


def _print_table(console: Console, table: Table) -> None:
    _say(console, table.title, style="bold")
    rows = [row for row in table.rows if row.has_data]
    if rows:
        alike, columns = _leading(table, rows)
        if alike:
            _say(console, ", ".join(alike), style="dim")
        every = [*columns, *_values(table, rows)]
        kept = print_table(console, every)
        if any(row.best for row in rows):
            _say(console, BEST, style="dim")
        if any(column.heading in table.remark_headings for column in kept):
            _say(console, table.remark_note, style="dim")
        _say(console, table.mark_note, style="dim")
    _say(console, rows_without_data(table), style="dim")


def _leading(table: Table, rows: Sequence[TableRow]) -> tuple[list[str], list[Column]]:
    """Return the leading values that all rows share, and the columns of the others."""
    alike, columns = [], []
    for number, heading in enumerate(table.leading):
        texts = [row.leading[number] for row in rows]
        if len(set(texts)) == 1 and heading != "property":
            alike.append(f"{heading} = {texts[0]}")
        else:
            columns.append(Column(heading, [*map(clean, texts)], 0))
    return alike, columns


def _values(table: Table, rows: Sequence[TableRow]) -> Iterator[Column]:
    """Yield the columns of attacks and controls, of costs, and of remarks."""
    ranks = _ranks(table, rows)
    for column in table.columns:
        texts = [
            row.values.get(column, UNMEASURED).text + (" ★" if column == row.best else "")
            for row in rows
        ]
        yield Column(clean(table.headings[column]), [*map(clean, texts)], ranks[column])
    last = len(ranks) + 1
    for number, heading in enumerate(table.cost_headings):
        yield Column(heading, [clean(str(row.costs[number])) for row in rows], last + number)
    for heading in table.remark_headings:
        last += len(table.cost_headings)
        texts = [clean("; ".join(row.remarks) or MISSING) for row in rows]
        yield Column(heading, texts, last, prose=True)


def _ranks(table: Table, rows: Sequence[TableRow]) -> dict[str, int]:
    """Return the rank of each column: the best attack, the best baseline, the bound, the others."""

    def mean(column: str) -> float:
        found = [row.values[column].compared for row in rows if column in row.values]
        return fmean([(each.value or 0.0) if each else 0.0 for each in found] or [0.0])

    def best_first(role: Role) -> list[str]:
        # Of equal ones the first in the table.
        return sorted((c for c in table.columns if table.roles[c] == role), key=mean, reverse=True)

    attacks, baselines = best_first("attack"), best_first("baseline")
    bounds, outputs = best_first("upper bound"), best_first("outputs")
    first = [*attacks[:1], *baselines[:1], *bounds, *attacks[1:], *baselines[1:], *outputs]
    return {column: number for number, column in enumerate(first, start=1)}


def _say(console: Console, sentence: str, style: str = "") -> None:
    if sentence:
        console.print(Text(clean(sentence), style=style))
