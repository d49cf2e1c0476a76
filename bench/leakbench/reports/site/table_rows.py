"""Rows of tables as HTML, without a template, which takes ten times as long for each value."""

from __future__ import annotations

from markupsafe import Markup, escape

from leakbench.reports.site.view import TableView, ValueView, breakable

LONG_TEXT, LONG_DETAIL = 24, 30
"""Letters above which a value is set in a wide column."""


def rows_html(table: TableView) -> Markup:
    """Return the rows of a table, each on a line; all that comes from records is escaped."""
    # Most values, such as those of settings, stand in many rows.
    known: dict[tuple[ValueView, bool, bool], str] = {}

    def html(value: ValueView, first: bool, control: bool) -> str:
        found = known.get((value, first, control))
        if found is None:
            found = known[value, first, control] = _place(value, first, control)
        return found

    controls = [column.control for column in table.columns]
    lines = [
        f'<tr id="{escape(row.identifier)}">'
        + "".join(
            html(value, number == 0, control)
            for number, (value, control) in enumerate(zip(row.values, controls, strict=True))
        )
        + "</tr>"
        for row in table.rows
    ]
    return Markup("\n".join(lines))


def _place(value: ValueView, first: bool, control: bool) -> str:
    """Return a value with the element that it stands in, which for the first is a heading."""
    is_long = len(value.text) > LONG_TEXT or len(value.detail) > LONG_DETAIL
    classes = " ".join(["long"] * is_long + ["control"] * control)
    named = f' class="{classes}"' if classes else ""
    begin, end = ("th scope=row", "th") if first else ("td", "td")
    return f"<{begin}{named}>{_value(value)}</{end}>"


def _value(value: ValueView) -> str:
    if value.href:
        label = ' aria-label="Link to this row"' if value.text == "#" else ""
        shown = f'<a href="{escape(value.href)}"{label}>{escape(value.text)}</a>'
    elif value.best:
        mark = '<span class="best">★<span class="unseen"> best of its row</span></span>'
        shown = f"<strong>{escape(value.text)}</strong> {mark}"
    else:
        shown = str(breakable(value.text))
    return f"{shown} <small>{escape(value.detail)}</small>" if value.detail else shown
