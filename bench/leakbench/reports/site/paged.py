"""Tables of rows that are spread over several pages, each made only when it is written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Generic, TypeVar

from leakbench.metrics.formatting import MISSING
from leakbench.reports.site.view import (
    LINK,
    Column,
    Page,
    PageLink,
    RowView,
    TableView,
    ValueView,
)

Item = TypeVar("Item")

ROWS = 2000
"""Rows of a page, which a browser lays out in about a second."""

NEAR = 2
"""Pages before and after a page to which it has links, besides the first and the last."""


@dataclass(frozen=True)
class PagedColumn(Generic[Item]):
    """A column of such a table, and what it shows of an item.

    Attributes:
        part: returns the part of an item on which the value depends; items with the same one often
            follow each other.
    """

    column: Column
    value: Callable[[Item], ValueView]
    part: Callable[[Item], object] = field(default=lambda item: item)

    def values(self, items: Iterable[Item]) -> Iterator[ValueView]:
        """Yield what it shows of each item, made once for those in a row with the same part."""
        before: object = None
        shown: ValueView | None = None
        for item in items:
            part = self.part(item)
            if shown is None or part is not before:
                shown, before = self.value(item), part
            yield shown


@dataclass(frozen=True)
class PagedTable(Generic[Item]):
    """A table with a row for each item.

    Attributes:
        path: of its first page, in the site's folder.
        caption: what it shows.
        items: one for each row.
        identifier: returns the name of an item's row, unique in the table.
        columns: what it shows of an item.
        notes: sentences under it.
    """

    path: str
    caption: str
    items: Sequence[Item]
    identifier: Callable[[Item], str]
    columns: Sequence[PagedColumn[Item]]
    notes: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """The number of pages, at least one."""
        return max(1, ceil(len(self.items) / ROWS))

    def path_of(self, number: int) -> str:
        """Return the path of a page, from 1 on; no other page has a point in its name."""
        stem, _, ending = self.path.rpartition(".")
        return self.path if number == 1 else f"{stem}.{number}.{ending}"

    def path_of_row(self, index: int) -> str:
        """Return the path of the page that shows an item."""
        return self.path_of(index // ROWS + 1)

    def page(self, number: int) -> TableView:
        """Return the table as a page shows it."""
        first = (number - 1) * ROWS
        items = self.items[first : first + ROWS]
        values = zip(*(each.values(items) for each in self.columns), strict=True)
        rows = tuple(
            RowView(self.identifier(item), shown) for item, shown in zip(items, values, strict=True)
        )
        notes, caption = self.notes, self.caption
        if self.count > 1:
            caption = f"{caption}, page {number} of {self.count}"
            notes = (
                f"Rows {first + 1} to {first + len(rows)} of {len(self.items)}. {PARTLY}",
                *notes,
            )
        columns = tuple(each.column for each in self.columns)
        return TableView("cells", caption, columns, rows, notes, self._links(number))

    def pages(self, title: str, since: int = 1) -> list[Page]:
        """Return the pages, from a number on, that show nothing but the table."""
        return [
            Page(self.path_of(number), "paged.html", title, {"paged": self, "number": number})
            for number in range(since, self.count + 1)
        ]

    def _links(self, number: int) -> tuple[PageLink, ...]:
        if self.count == 1:
            return ()
        near = range(max(1, number - NEAR), min(self.count, number + NEAR) + 1)
        return tuple(
            PageLink(str(each), "" if each == number else self.path_of(each))
            for each in sorted({1, *near, self.count})
        )


KEPT = {"property", "record", LINK.heading}
"""Columns that a table has even if all rows have the same in it."""


def without_constant(
    rows: Sequence[Item], columns: Sequence[PagedColumn[Item]]
) -> tuple[list[PagedColumn[Item]], list[str]]:
    """Return the columns in which rows differ, and sentences on what the others have."""
    shown: list[PagedColumn[Item]] = []
    same: list[str] = []
    missing: list[str] = []
    for each in columns:
        heading = each.column.heading
        first = each.value(rows[0]) if len(rows) > 1 else None
        if first is None or heading in KEPT or any(value != first for value in each.values(rows)):
            shown.append(each)
        elif first.text == MISSING:
            missing.append(heading)
        else:
            same.append(f"{heading} = {' '.join(filter(None, (first.text, first.detail)))}")
    notes = [f"The same in all rows: {'; '.join(same)}."] if same else []
    notes += [f"In no row: {', '.join(missing)}."] if missing else []
    return shown, notes


PARTLY = (
    "What is sorted, sought or chosen are the rows of this page; `leakbench results` writes all of "
    "them as one table."
).replace("`", "")
"""Under a page of a table with several."""
