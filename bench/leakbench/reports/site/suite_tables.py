"""The tables of suites as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from leakbench.metrics.formatting import MISSING, counted
from leakbench.reports.site import paged
from leakbench.reports.site.view import (
    LINK,
    Column,
    RowView,
    TableView,
    ValueView,
    made_unique,
    number_view,
    slug,
)
from leakbench.reports.suite_report import SuiteReport, named_groups
from leakbench.reports.tables import UNMEASURED, Table, TableRow

Item = TypeVar("Item")


def fitting(report: SuiteReport) -> list[str]:
    """Return the groups of a suite whose tables fit on a page; the last ones are left out first."""
    room, shown = paged.ROWS, []
    for group in report.groups:
        # A table of more rows is not even made.
        if report.least_rows(group) > room:
            break
        room -= len(report.table(group)[0].rows)
        if room < 0:
            break
        shown.append(group)
    return shown


def left_out_tables(report: SuiteReport) -> str:
    """Return a sentence on the tables that are not on a suite's page; empty where all are."""
    groups = list(report.groups)[len(fitting(report)) :]
    if not groups:
        return ""
    return (
        f"**{counted(len(groups), 'table')} left out**, since a page has at most {paged.ROWS} "
        f"rows of them: {named_groups(groups)}."
    )


def suite_tables(name: str, report: SuiteReport) -> list[TableView]:
    """Return a table for each group of a suite, of those that fit on its page."""
    tables = map(report.table, fitting(report))
    return [
        _table_view(f"{slug(name)}-{number}", table, note)
        for number, (table, note) in enumerate(tables, start=1)
    ]


def _table_view(identifier: str, table: Table, note: str) -> TableView:
    leading = [Column(heading, "text", filtered=True) for heading in table.leading]
    results = [
        Column(table.headings[c], "number", control=c in table.controls) for c in table.columns
    ]
    costs = [Column(heading, "number") for heading in table.cost_headings]
    names = made_unique([slug(identifier, *row.leading) for row in table.rows])
    rows = [_row(name, row, table) for name, row in zip(names, table.rows, strict=True)]
    remarks = [Column(heading, filtered=True) for heading in table.remark_headings]
    columns = (*leading, *results, *costs, *remarks, LINK)
    notes = tuple(filter(None, (table.note, note)))
    view = TableView(identifier, table.title, columns, tuple(rows), notes)
    return _without_constant(view, len(leading))


def _without_constant(view: TableView, leading: int) -> TableView:
    """Return a table without the leading columns that are the same in all rows, which it notes."""
    columns = [{row.values[place] for row in view.rows} for place in range(leading)]
    hidden = {place for place, values in enumerate(columns) if len(values) == 1}
    if not hidden or len(hidden) == leading or len(view.rows) < 2:
        return view
    same = [
        f"{view.columns[place].heading} = {view.rows[0].values[place].text}"
        for place in sorted(hidden)
        if view.rows[0].values[place].text != MISSING
    ]

    def kept(of: Sequence[Item]) -> tuple[Item, ...]:
        return tuple(each for place, each in enumerate(of) if place not in hidden)

    rows = tuple(row._replace(values=kept(row.values)) for row in view.rows)
    note = [f"The same in all rows: {'; '.join(same)}."] if same else []
    return replace(view, columns=kept(view.columns), rows=rows, notes=(*note, *view.notes))


def _row(identifier: str, row: TableRow, table: Table) -> RowView:
    values = [ValueView(value) for value in row.leading]
    for column in table.columns:
        value = row.values.get(column, UNMEASURED)
        values.append(ValueView(value.number.value, value.detail, best=column == row.best))
    values += map(number_view, row.costs)
    values += [ValueView("; ".join(row.remarks)) for _ in table.remark_headings]
    return RowView(identifier, (*values, ValueView("#", href=f"#{identifier}")))
