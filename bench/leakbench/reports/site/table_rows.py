"""Rows of tables as HTML, without a template, which takes ten times as long for each value."""

from __future__ import annotations

import re
from collections.abc import Sequence

from markupsafe import Markup, escape

from leakbench.reports.site.view import TableView, ValueView, breakable

PLAIN = re.compile(r"[A-Za-z0-9.#_-]+")
"""Values of attributes that need no quotation marks."""

LONG_TEXT, LONG_DETAIL = 28, 30
"""Letters above which a value is set in a wide column."""


def rows_html(table: TableView) -> Markup:
    """Return the rows of a table, each on a line; all that comes from records is escaped.

    Without the end tags and quotation marks that HTML can do without, a fifth of the site.
    """
    if not table.rows:
        return Markup("")
    columns = zip(*(row.values for row in table.rows), strict=True)
    html = [
        _column(values, number == 0, column.control)
        for number, (values, column) in enumerate(zip(columns, table.columns, strict=True))
    ]
    names = (f"<tr id={_attribute(row.identifier)}>" for row in table.rows)
    return Markup("\n".join(map("".join, zip(names, *html, strict=True))))


def _column(values: Sequence[ValueView], first: bool, control: bool) -> list[str]:
    """Return the values of a column, each made once: most stand in many rows."""
    known = {value: _place(value, first, control) for value in set(values)}
    return [known[value] for value in values]


def _place(value: ValueView, first: bool, control: bool) -> str:
    """Return a value with the element that it stands in, which for the first is a heading."""
    is_long = len(value.text) > LONG_TEXT or len(value.detail) > LONG_DETAIL
    classes = " ".join(["long"] * is_long + ["control"] * control)
    named = f" class={_attribute(classes)}" if classes else ""
    return f"<{'th scope=row' if first else 'td'}{named}>{_value(value)}"


def _attribute(text: str) -> str:
    """Return an attribute's value, in quotation marks where it needs them.

    >>> _attribute("k1-gender"), _attribute("long control")
    ('k1-gender', '"long control"')
    """
    return text if PLAIN.fullmatch(text) else f'"{escape(text)}"'


def _value(value: ValueView) -> str:
    if value.href:
        shown = f"<a href={_attribute(value.href)}>{escape(value.text)}</a>"
    elif value.best:
        mark = '<span class="best">★<span class="unseen"> best of its row</span></span>'
        shown = f"<strong>{escape(value.text)}</strong> {mark}"
    else:
        shown = str(breakable(value.text))
    return f"{shown} <small>{escape(value.detail)}</small>" if value.detail else shown
