"""The tables of suites as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence

from leakbench.records.measured import Measured
from leakbench.reports.rows import MISSING
from leakbench.reports.site.view import (
    LINK,
    Column,
    Line,
    Place,
    TableView,
    place_of,
    slug,
    told_apart,
)
from leakbench.reports.suite_report import terms
from leakbench.reports.tables import Table, TableRow, by_group, table_of


def suite_tables(name: str, cells: Sequence[Measured]) -> list[TableView]:
    """Return a table for each group of a suite."""
    return [
        _table_view(f"{slug(name)}-{number}", table_of(of_group), terms(of_group))
        for number, of_group in enumerate(by_group(cells).values(), start=1)
    ]


def _table_view(identifier: str, table: Table, note: str) -> TableView:
    leading = [Column(heading, "text", filtered=True) for heading in table.leading]
    results = [Column(c, "number", control=c in table.controls) for c in table.columns]
    prices = [Column(heading, "number") for heading in table.trailing]
    names = told_apart([slug(identifier, *row.leading) for row in table.rows])
    lines = [_line(name, row, table) for name, row in zip(names, table.rows, strict=True)]
    columns = (*leading, *results, *prices, LINK)
    return TableView(identifier, table.title, columns, tuple(lines), (note,) if note else ())


def _line(identifier: str, row: TableRow, table: Table) -> Line:
    places = [Place(value) for value in row.leading]
    for column in table.columns:
        value = row.values.get(column)
        text = MISSING if value is None else value.text
        places.append(place_of(text, best=column == row.best))
    places += [place_of(row.prices.get(heading, MISSING)) for heading in table.trailing]
    return Line(identifier, (*places, Place("#", href=f"#{identifier}")))
