"""Paragraphs and tables that are printed: to fit a terminal, or as plain text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text
from tabulate import tabulate

from leakbench.base.markdown import markdown_table, printable
from leakbench.base.terminal_tables import Column, clean, print_table


@dataclass(frozen=True)
class TextTable:
    """A table of texts.

    Attributes:
        columns: its headings; the first names a row.
        rows: a text for each column; missing ones at the end are blank.
        order: columns by how much they matter on a narrow terminal, the most important first;
            as they come if empty.
        prose: columns whose texts are sentences or titles.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    order: Sequence[str] = ()
    prose: Sequence[str] = ()

    def plain(self) -> str:
        """Return it with aligned columns, headings underlined."""
        return tabulate(self.rows, self.columns, tablefmt="simple", disable_numparse=True)

    def markdown(self) -> str:
        """Return it as Markdown."""
        return markdown_table(self.rows, self.columns)

    def for_terminal(self) -> list[Column]:
        """Return its columns with their ranks."""
        order = [self.columns[0], *(self.order or self.columns[1:])]
        texts = {
            heading: [clean(row[number]) if number < len(row) else "" for row in self.rows]
            for number, heading in enumerate(self.columns)
        }
        return [
            Column(heading, texts[heading], order.index(heading), heading in self.prose)
            for heading in self.columns
        ]


Document = Sequence[str | TextTable]
"""Paragraphs and tables, in their order."""


def plain(table: TextTable) -> str:
    """Return a table as plain text."""
    return table.plain()


def markdown(table: TextTable) -> str:
    """Return a table as Markdown."""
    return table.markdown()


def as_text(document: Document, table: Callable[[TextTable], str]) -> str:
    """Return a document as one text, its tables written by a function."""
    return "\n\n".join(part if isinstance(part, str) else table(part) for part in document)


def print_document(document: Document, table: Callable[[TextTable], str]) -> None:
    """Print a document: on a terminal such that it fits its width, elsewhere as text.

    Args:
        table: writes a table where standard output is no terminal.
    """
    if not sys.stdout.isatty():
        print(as_text(document, table))
        return
    console = Console()
    for number, part in enumerate(document):
        if number:
            console.print()
        if isinstance(part, str):
            console.print(Text(printable(part)))
        else:
            print_table(console, part.for_terminal())
