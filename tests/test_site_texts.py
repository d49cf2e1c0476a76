"""Facts about what the site does without: end tags, constant columns, and unfolded readings."""

from __future__ import annotations

from pathlib import Path

from drawing import SUITE
from leakbench.records.measured import Measured
from leakbench.reports.site.readings import reading_html
from leakbench.reports.site.suite_tables import suite_tables
from leakbench.reports.site.table_rows import rows_html
from leakbench.reports.site.view import Column, RowView, TableView, ValueView
from leakbench.reports.suite_report import SuiteReport
from records import measured, suite_entries

READING = """## Reading

The conclusion.

More about it:

- one
- two

The end.
"""


def test_a_reading_is_folded_after_its_first_paragraph() -> None:
    html = str(reading_html(READING, {}, []))
    shown, _, folded = html.partition("<details>")
    assert "The conclusion." in shown and "More" not in shown
    assert folded.startswith("\n<summary>The whole reading</summary>")
    assert all(text in folded for text in ("More about it:", "<li>one</li>", "The end."))
    assert html.count("<details>") == html.count("</details>") == 1


def test_a_short_reading_is_not_folded() -> None:
    assert "<details>" not in reading_html("## Reading\n\nAll.\n\nOf it.\n", {}, [])
    assert "<details>" not in reading_html("", {}, [])


def test_a_column_that_is_the_same_in_all_rows_is_named_below(tmp_path: Path) -> None:
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    cells = [Measured(entry, measured(entry)) for entry in suite_entries(str(path))]
    first, *_ = suite_tables("small", SuiteReport(cells))
    headings = [column.heading for column in first.columns]
    assert "main task" not in headings and "property" in headings
    assert first.notes[0].startswith("The same in all rows: ")
    assert "main task = hat+smile" in first.notes[0]
    assert {len(row.values) for row in first.rows} == {len(headings)}


def test_values_are_quoted_where_html_needs_it() -> None:
    columns = (Column("a"), Column("b"))
    hostile = ValueView("x", href='a.html#" onclick="y')
    table = TableView("t", "T", columns, (RowView("t-1", (ValueView("<b>"), hostile)),))
    assert rows_html(table) == (
        '<tr id=t-1><th scope=row>&lt;b&gt;<td><a href="a.html#&#34; onclick=&#34;y">x</a>'
    )
