"""Tables on a terminal: whole columns that fit its width, and the names of the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from leakbench.base.markdown import one_line, printable

GAP = 2
"""Columns of the terminal between two columns of a table."""

LEAST_PROSE = 30
"""Columns of the terminal below which prose is left out."""


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: may be broken between words.
        texts: one for each row; not broken, unless they are prose.
        rank: columns of lower ranks are shown first; those of rank 0, by which a reader finds a
            row, always.
        prose: whether texts are sentences or titles, which may be broken between words.
    """

    heading: str
    texts: Sequence[str]
    rank: int
    prose: bool = False

    @property
    def width(self) -> int:
        """How wide it is if nothing but its heading is broken."""
        return max(cell_len(text) for text in (*self.texts, *self.heading.split()))

    @property
    def least(self) -> int:
        """How wide it must be."""
        return min(self.width, LEAST_PROSE) if self.prose else self.width

    def part(self, rows: slice) -> Column:
        """Return the column with some of its rows."""
        return Column(self.heading, self.texts[rows], self.rank, self.prose)


def clean(text: str) -> str:
    """Return a text of others as one line that cannot command the terminal."""
    return printable(one_line(text))


def print_table(console: Console, columns: Sequence[Column]) -> list[Column]:
    """Print the columns that fit the console, and which are left out; return those printed.

    Where the leading columns, those of rank 0, leave no room for another, the first of them become
    lines above the rows that they have in common.
    """
    above, columns = _above(columns, console.width)
    kept = fitting(columns, console.width)
    widths = _widths(kept, console.width)
    if above:
        # The headings, once.
        console.print(_drawn([column.part(slice(0)) for column in kept], widths, True))
    for text, rows in _sections(above, len(columns[0].texts)):
        if text:
            console.print(Text(text, style="dim"))
        console.print(_drawn([column.part(rows) for column in kept], widths, not above))
    if left_out := [column.heading for column in columns if column not in kept]:
        console.print(Text(clean(f"Left out at this width: {', '.join(left_out)}."), style="dim"))
    return [*above, *kept]


def fitting(columns: Sequence[Column], width: int) -> list[Column]:
    """Return the columns that fit into a width, by rank, in their order.

    Those of rank 0, and the first of the others, are kept in any case.
    """
    kept = [column for column in columns if column.rank == 0]
    room = width - _taken(kept)
    for number, column in enumerate(sorted(columns, key=lambda column: column.rank)[len(kept) :]):
        if number and column.least + GAP > room:
            continue
        kept.append(column)
        room -= column.least + GAP
    return [column for column in columns if column in kept]


def _taken(columns: Sequence[Column]) -> int:
    """Return how wide columns are together; there is no gap after the last."""
    return sum(column.least + GAP for column in columns) - GAP


def _above(columns: Sequence[Column], width: int) -> tuple[list[Column], list[Column]]:
    """Return the leading columns that become lines above rows, and the others."""
    leading = [column for column in columns if column.rank == 0]
    others = sorted((c for c in columns if c.rank), key=lambda column: column.rank)[:1]
    above: list[Column] = []
    while others and leading and _taken([*leading, *others]) > width:
        if len(leading) == 1 and _taken(others) > width:
            break  # The only one is kept beside a value that is broken anyway.
        above.append(leading.pop(0))
    return above, [column for column in columns if column not in above]


def _sections(above: Sequence[Column], rows: int) -> Iterator[tuple[str, slice]]:
    """Yield what rows one after the other have in common, and which rows these are."""
    if not above:
        yield "", slice(rows)
        return

    def text(row: int) -> str:
        return ", ".join(f"{column.heading} = {column.texts[row]}" for column in above)

    for common, group in groupby(range(rows), key=text):
        numbers = [*group]
        yield common, slice(numbers[0], numbers[-1] + 1)


def _widths(columns: Sequence[Column], width: int) -> list[int] | None:
    """Return the columns' widths, prose as wide as there is room; None if they do not fit."""
    room = width - _taken(columns)
    if room < 0:
        return None
    widths = []
    for column in columns:
        more = min(room, column.width - column.least)
        widths.append(column.least + more)
        room -= more
    return widths


def _drawn(columns: Sequence[Column], widths: Sequence[int] | None, heading: bool) -> Table:
    drawn = Table(
        box=None, padding=(0, GAP, 0, 0), pad_edge=False, header_style="bold", show_header=heading
    )
    for number, column in enumerate(columns):
        # A terminal that is too narrow for any table breaks values too.
        drawn.add_column(Text(column.heading), width=widths[number] if widths else None)
    above: list[str] = []
    for number, _ in enumerate(columns[0].texts):
        texts = [column.texts[number] for column in columns]
        drawn.add_row(*map(Text, _without_repeats(texts, above, columns)))
        above = texts
    return drawn


def _without_repeats(
    texts: Sequence[str], above: Sequence[str], columns: Sequence[Column]
) -> Iterator[str]:
    """Yield a row's texts, the leading ones blank where they only repeat the row above."""
    same = bool(above)
    for number, (text, column) in enumerate(zip(texts, columns, strict=True)):
        same = same and column.rank == 0 and text == above[number]
        yield "" if same else text
