"""What pages are made of, before it is HTML."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from markupsafe import Markup, escape

from leakbench.reports.summaries import Summary


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: what stands above it.
        kind: whether it is sorted by number, by text, or not at all.
        filtered: whether the reader may choose among its values.
        control: whether it is that of a control, which does not compete.
    """

    heading: str
    kind: Literal["text", "number", "link"] = "text"
    filtered: bool = False
    control: bool = False


LINK = Column("link", "link")
"""The column of links to rows."""


@dataclass(frozen=True)
class Place:
    """What stands in a row and column.

    Attributes:
        text: that by which the column is sorted and filtered.
        detail: what follows it in smaller letters, such as an interval.
        best: whether it is marked as the best of its row.
        href: what it links to, if anything.
    """

    text: str
    detail: str = ""
    best: bool = False
    href: str = ""


@dataclass(frozen=True)
class Line:
    """A row of a table.

    Attributes:
        identifier: the row's name in the page's address, unique on the page.
        places: as many as there are columns.
    """

    identifier: str
    places: tuple[Place, ...]


@dataclass(frozen=True)
class TableView:
    """A table that readers sort, filter and link to.

    Attributes:
        identifier: its name in the page's address, unique on the page.
        caption: what it shows.
        columns, lines: its content.
        notes: sentences under it.
    """

    identifier: str
    caption: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Page:
    """A page of the site.

    Attributes:
        path: of its file, in the site's folder.
        template: its name.
        title: of the page.
        content: what the template shows.
    """

    path: str
    template: str
    title: str
    content: Mapping[str, object] = field(default_factory=dict)


def place_of(text: str, best: bool = False) -> Place:
    """Return a place whose text is what stands before an interval, or before a parenthesis.

    >>> place_of("72.8 [68.2, 77.4]")
    Place(text='72.8', detail='[68.2, 77.4]', best=False, href='')
    """
    value, *rest = re.split(r" (?=[\[(])", text, maxsplit=1)
    return Place(value, "".join(rest), best)


def plain_table(
    identifier: str, caption: str, summary: Summary, numbers: Iterable[str] = ()
) -> TableView:
    """Return a table of texts, without links to its rows.

    Args:
        numbers: the headings of columns that are sorted by number.
    """
    of_numbers = set(numbers)
    columns = [
        Column(heading, "number" if heading in of_numbers else "text")
        for heading in summary.headings
    ]
    lines = [
        Line(f"{identifier}-{number}", tuple(Place(text) for text in row))
        for number, row in enumerate(summary.rows, start=1)
    ]
    return TableView(identifier, caption, tuple(columns), tuple(lines))


def slug(*texts: str) -> str:
    """Return texts as a name for an address: lower case letters, digits and hyphens.

    >>> slug("Table 1", "gender†")
    'table-1-gender'
    """
    return "-".join(filter(None, re.split(r"[^a-z0-9]+", " ".join(texts).lower()))) or "row"


def told_apart(names: Sequence[str]) -> list[str]:
    """Return names of which no two are the same; those that were come with a number.

    >>> told_apart(["a", "b", "a"])
    ['a', 'b', 'a-2']
    """
    chosen: dict[str, None] = {}
    for name in names:
        number, candidate = 1, name
        while candidate in chosen:
            number += 1
            candidate = f"{name}-{number}"
        chosen[candidate] = None
    return list(chosen)


def marked_up(text: str) -> Markup:
    """Return text as HTML, escaped, with `**strong**` and code in backticks as the tables have it.

    >>> marked_up("**Prior** of `<x>`")
    Markup('<strong>Prior</strong> of <code>&lt;x&gt;</code>')
    """
    # Put together as plain text, for what is joined to HTML is escaped anew.
    plain = str(with_code(text))
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", plain))


def with_code(text: str) -> Markup:
    """Return text as HTML, escaped, with code in backticks as documentation has it."""
    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(text))))


def breakable(text: str) -> Markup:
    """Return text as HTML, escaped, that may go on in the next line after `+` and `::`.

    >>> breakable("Black_Hair+Bangs")
    Markup('Black_Hair+<wbr>Bangs')
    """
    return Markup(re.sub(r"(\+|::)(?=\w)", r"\1<wbr>", str(escape(text))))
