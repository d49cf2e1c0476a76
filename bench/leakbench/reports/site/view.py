"""The content of pages, before it is HTML."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal, NamedTuple

from markupsafe import Markup, escape

from leakbench.metrics.formatting import FormattedNumber
from leakbench.reports.summaries import Summary


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        heading: its heading.
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


class ValueView(NamedTuple):
    """The value of a row in a column.

    Attributes:
        text: by which the column is sorted and filtered.
        detail: what follows in smaller letters, such as an interval.
        best: whether it is marked as the best of its row.
        href: what it links to, if anything.
    """

    text: str
    detail: str = ""
    best: bool = False
    href: str = ""


class RowView(NamedTuple):
    """A row of a table.

    Attributes:
        identifier: the row's name in the page's address, unique on the page.
        values: as many as there are columns.
    """

    identifier: str
    values: tuple[ValueView, ...]


@dataclass(frozen=True)
class PageLink:
    """A link to a page of a table that has several.

    Attributes:
        label: the page's number.
        href: its path; empty for the page itself.
    """

    label: str
    href: str


@dataclass(frozen=True)
class TableView:
    """A table that readers sort, filter and link to.

    Attributes:
        identifier: its name in the page's address, unique on the page.
        caption: what it shows.
        columns, rows: its content.
        notes: sentences under it.
        pages: links to the other pages of the same table; none where it has one page.
    """

    identifier: str
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[RowView, ...]
    notes: tuple[str, ...] = ()
    pages: tuple[PageLink, ...] = ()


@dataclass(frozen=True)
class Page:
    """A page of the site.

    Attributes:
        path: of its file, in the site's folder.
        template: its name.
        title: of the page.
        content: what the template shows.
        of_writing: returns more of that, made when the page is written, since all tables of large
            suites at once would take more memory than the records.
    """

    path: str
    template: str
    title: str
    content: Mapping[str, object] = field(default_factory=dict)
    of_writing: Callable[[], Mapping[str, object]] = dict


def number_view(number: FormattedNumber, best: bool = False) -> ValueView:
    """Return the view of a number, with its interval as the detail."""
    return ValueView(number.value, number.detail, best)


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
    rows = [
        RowView(f"{identifier}-{number}", tuple(ValueView(text) for text in row))
        for number, row in enumerate(summary.rows, start=1)
    ]
    return TableView(identifier, caption, tuple(columns), tuple(rows))


@lru_cache(maxsize=1024)
def slug(*texts: str) -> str:
    """Return texts as a name for an address: lower case letters, digits and hyphens.

    >>> slug("Table 1", "gender†")
    'table-1-gender'
    """
    return "-".join(filter(None, re.split(r"[^a-z0-9]+", " ".join(texts).lower()))) or "row"


def made_unique(names: Sequence[str]) -> list[str]:
    """Return names with a number appended to those that repeat an earlier one.

    >>> made_unique(["a", "b", "a"])
    ['a', 'b', 'a-2']
    """
    chosen: dict[str, None] = {}
    # Name → the last number that was tried for it; without it equal names take quadratic time.
    numbers: dict[str, int] = {}
    for name in names:
        number, candidate = numbers.get(name, 1), name
        while candidate in chosen:
            number += 1
            candidate = f"{name}-{number}"
        chosen[candidate], numbers[name] = None, number
    return list(chosen)


def marked_up(text: str) -> Markup:
    """Return text as HTML, escaped, with `**strong**` and code in backticks.

    >>> marked_up("**Prior** of `<x>`")
    Markup('<strong>Prior</strong> of <code>&lt;x&gt;</code>')
    """
    # As plain text, since what is joined to `Markup` is escaped again.
    plain = str(with_code(text))
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", plain))


def with_code(text: str) -> Markup:
    """Return text as HTML, escaped, with code in backticks."""
    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(text))))


def breakable(text: str) -> Markup:
    """Return text as HTML, escaped, that may break after `+` and `::`.

    >>> breakable("Black_Hair+Bangs")
    Markup('Black_Hair+<wbr>Bangs')
    """
    escaped = escape(text)
    if "+" not in escaped and "::" not in escaped:
        return escaped
    return Markup(re.sub(r"(\+|::)(?=\w)", r"\1<wbr>", str(escaped)))
