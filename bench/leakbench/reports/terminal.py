"""A suite's result on a terminal: a conclusion, and tables that fit its width."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from leakbench.base.markdown import one_line, printable
from leakbench.metrics.formatting import MISSING
from leakbench.records.measured import Measured
from leakbench.reports.conclusion import conclusion
from leakbench.reports.missing import missing_lines, rows_without_data
from leakbench.reports.tables import UNMEASURED, Role, Table, TableRow, by_group, table_of

GAP = 2
"""Columns of the terminal between two columns of a table."""

BEST = (
    "★: the best attack of its row; its interval lies above those of all other attacks and above "
    "that of the best baseline with its knowledge."
)


@dataclass(frozen=True)
class Shown:
    """A column of a table on a terminal.

    Attributes:
        heading: may be broken between words.
        texts: one for each row; not broken.
        rank: columns of lower ranks are shown first; those of rank 0 always.
    """

    heading: str
    texts: Sequence[str]
    rank: int

    @property
    def width(self) -> int:
        """How wide it must be."""
        return max(cell_len(text) for text in (*self.texts, *self.heading.split()))


def print_report(console: Console, cells: Sequence[Measured]) -> None:
    """Print the conclusion, a table for each group, and what is missing."""
    _say(console, conclusion(cells), style="bold")
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
        kept = fitting(every, console.width)
        console.print(_drawn(kept, rows, console.width))
        if left_out := [column.heading for column in every if column not in kept]:
            _say(console, f"Left out at this width: {', '.join(left_out)}.", style="dim")
        if any(row.best for row in rows):
            _say(console, BEST, style="dim")
        if any(column.heading in table.remark_headings for column in kept):
            _say(console, table.remark_note, style="dim")
        _say(console, table.mark_note, style="dim")
    _say(console, rows_without_data(table), style="dim")


def fitting(columns: Sequence[Shown], width: int) -> list[Shown]:
    """Return the columns that fit into a width, by rank, in their order.

    Those of rank 0, and the first of the others, are kept in any case.
    """
    kept = [column for column in columns if column.rank == 0]
    room = width - sum(column.width + GAP for column in kept)
    for number, column in enumerate(sorted(columns, key=lambda column: column.rank)[len(kept) :]):
        if number and column.width + GAP > room:
            continue
        kept.append(column)
        room -= column.width + GAP
    return [column for column in columns if column in kept]


def _leading(table: Table, rows: Sequence[TableRow]) -> tuple[list[str], list[Shown]]:
    """Return the leading values that all rows share, and the columns of the others."""
    alike, columns = [], []
    for number, heading in enumerate(table.leading):
        texts = [row.leading[number] for row in rows]
        if len(set(texts)) == 1 and heading != "property":
            alike.append(f"{heading} = {texts[0]}")
        else:
            columns.append(Shown(heading, [*map(_clean, texts)], 0))
    return alike, columns


def _values(table: Table, rows: Sequence[TableRow]) -> Iterator[Shown]:
    """Yield the columns of attacks and controls, of costs, and of remarks."""
    ranks = _ranks(table, rows)
    for column in table.columns:
        texts = [
            row.values.get(column, UNMEASURED).text + (" ★" if column == row.best else "")
            for row in rows
        ]
        yield Shown(_clean(table.headings[column]), [*map(_clean, texts)], ranks[column])
    last = len(ranks) + 1
    for number, heading in enumerate(table.cost_headings):
        yield Shown(heading, [_clean(str(row.costs[number])) for row in rows], last + number)
    for heading in table.remark_headings:
        last += len(table.cost_headings)
        yield Shown(heading, ["; ".join(row.remarks) or MISSING for row in rows], last)


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


def _drawn(columns: Sequence[Shown], rows: Sequence[TableRow], width: int) -> RichTable:
    drawn = RichTable(box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold")
    fits = sum(column.width + GAP for column in columns) <= width + GAP
    for column in columns:
        # A terminal that is too narrow for any table breaks values too.
        drawn.add_column(Text(column.heading), width=column.width if fits else None)
    above: list[str] = []
    for number, _ in enumerate(rows):
        texts = [column.texts[number] for column in columns]
        drawn.add_row(*map(Text, _without_repeats(texts, above, columns)))
        above = texts
    return drawn


def _without_repeats(
    texts: Sequence[str], above: Sequence[str], columns: Sequence[Shown]
) -> Iterable[str]:
    """Yield a row's texts, the leading ones blank where they only repeat the row above."""
    same = bool(above)
    for number, (text, column) in enumerate(zip(texts, columns, strict=True)):
        same = same and column.rank == 0 and text == above[number]
        yield "" if same else text


def _clean(text: str) -> str:
    return printable(one_line(text))


def _say(console: Console, sentence: str, style: str = "") -> None:
    if sentence:
        console.print(Text(_clean(sentence), style=style))
