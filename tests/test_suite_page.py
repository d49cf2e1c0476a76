"""A suite's report: a short page with the reading first, and all metrics as CSV beside it."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from leakbench.experiments.cell import Cell
from leakbench.experiments.expansion import SuiteEntry
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.reports import suite_page
from leakbench.reports.details import (
    CELL_HEADINGS,
    COST_HEADINGS,
    LABELS,
    PROPERTY_HEADINGS,
    details,
    details_csv,
)
from leakbench.reports.suite_page import LIMIT, Heading, page
from leakbench.reports.suite_report import SuiteReport, main_tables
from publishing import defended_suite, done, failed, write_run
from records import suite_entries

Run = Callable[..., tuple[int, str, str]]

HEADING = Heading("t", "T", "leakbench run t", "## Reading\n\nWhat it [means](x.md).")


@pytest.fixture
def cells(tmp_path: Path) -> list[Measured]:
    return [Measured(e, done(e)) for e in suite_entries(str(defended_suite(tmp_path)))]


def headings_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("#")]


def test_the_reading_comes_first_and_settings_are_folded(cells: list[Measured]) -> None:
    text = page(HEADING, SuiteReport(cells))
    assert headings_of(text) == [
        *("# T", "## Reading", "## By defense", "## How to read", "## All metrics"),
    ]
    assert "What it [means](x.md)." in text
    assert "](t.csv)" in text.partition("## Reading")[0]
    folds = re.findall(r"<details>\n<summary>(.+)</summary>\n\n((?s:.+?))\n\n</details>", text)
    assert [summary for summary, _ in folds] == ["What the metrics are", "Settings"]
    assert folds[1][1].startswith("- individuals in each cell: 64")
    assert text.count("<") == 8
    assert main_tables(cells) in text


def test_figures_follow_the_tables_if_the_reading_does_not_show_them(
    cells: list[Measured], tmp_path: Path
) -> None:
    (tmp_path / "figures").mkdir()
    for name in ("t-budget", "t-phase-1", "t-reconstructions", "quick-budget"):
        Image.new("RGB", (2, 2)).save(tmp_path / "figures" / f"{name}.png")
    found = suite_page.figures_of(tmp_path, "t")
    assert list(found) == ["t-budget.png", "t-phase-1.png"]
    reading = "## Reading\n\n![phases](figures/t-phase-1.svg)"
    text = page(replace(HEADING, reading=reading, figures=found), SuiteReport(cells))
    assert re.findall(r"\]\((figures/.+?)\)", text) == [
        "figures/t-phase-1.svg",
        "figures/t-budget.png",
    ]
    assert text.index("## By defense") < text.index("t-budget.png") < text.index("## How to read")


def test_a_page_is_cut_where_it_would_be_longer_and_names_what_it_leaves_out(
    cells: list[Measured], monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [
        replace(m, entry=replace(m.entry, group=f"Group {number}"))
        for number in range(4)
        for m in cells
    ]
    whole = page(HEADING, SuiteReport(groups))
    length = len(whole.encode())

    def cut_to(limit: int) -> str:
        monkeypatch.setattr(suite_page, "LIMIT", limit)
        text = page(HEADING, SuiteReport(groups))
        assert len(text.encode()) <= limit
        return text

    # First columns are not aligned any more,
    compact = cut_to(length - 1)
    assert "   " not in compact
    assert re.sub(r" +|-+", "", compact) == re.sub(r" +|-+", "", whole)
    # then tables go,
    fewer = cut_to(len(compact.encode()) - 1)
    assert "Group 0" in fewer
    assert "tables left out**" in fewer or "1 table left out**" in fewer
    assert "“Group" in fewer
    assert "- individuals in each cell" in fewer
    # and at last the settings; the reading stays.
    least = cut_to(6_500)
    assert "**4 tables left out**" in least
    assert "- individuals in each cell" not in least
    assert HEADING.reading in least


def test_thousands_of_failures_do_not_fill_the_page(cells: list[Measured]) -> None:
    broken = failed(cells[0].entry, "x" * 5000)
    many = [
        Measured(replace(m.entry, key=f"{number:024}"), broken)
        for number, m in enumerate(cells * 50)
    ]
    text = page(HEADING, SuiteReport(many))
    assert len(text.encode()) <= LIMIT
    assert f"{len(many) - 20} more cells failed." in text


def without(cells: list[Measured], which: Callable[[Cell], bool]) -> list[Measured]:
    return [Measured(m.entry, None) if which(m.entry.cell) else m for m in cells]


def test_rows_without_data_are_a_note_below_the_table(cells: list[Measured]) -> None:
    rows = main_tables(cells).count("\n| ")
    some = main_tables(
        without(cells, lambda cell: cell.defense == "gaussian" and cell.batch_size == 8)
    )
    assert rows - some.count("\n| ") == 8
    assert (
        "No data for 8 rows: B = 8, defense = gaussian, level = sigma = 0.01; "
        "B = 8, defense = gaussian, level = sigma = 0.1." in some
    )
    # A row in which one attack is measured stays.
    one = main_tables(without(cells, lambda cell: cell.attack != "ig"))
    assert one.count("\n| ") == rows
    assert "No data" not in one
    assert "–: not measured, or not defined" in one
    assert "–:" not in main_tables(cells)


def test_properties_without_data_are_named(cells: list[Measured]) -> None:
    def only_gender(m: Measured) -> Measured:
        cell = m.entry.cell.model_copy(update={"properties": ("gender",)})
        return Measured(replace(m.entry, resolved=replace(m.entry.resolved, cell=cell)), m.record)

    both = [*without(cells, lambda _: True), *map(only_gender, cells)]
    at = [m for m in both if m.entry.cell.batch_size == 8 and m.entry.cell.defense == "none"]
    assert "No data for 3 rows: glasses, smile, young." in main_tables(at)


def test_marks_are_explained_at_the_table_that_has_them(cells: list[Measured]) -> None:
    few = main_tables(cells)
    assert "(4 batches)" in few
    assert "(n batches): fewer than 8 victim batches" in few
    many = main_tables([m for m in cells if m.entry.cell.batch_size == 1])
    assert "Marks:" not in many
    broken = [Measured(m.entry, failed(m.entry, "no")) for m in cells[:1]] + cells[1:]
    assert "failed: the measurement ended in an error" in main_tables(broken)
    # Bold, where the leaderboard marks the best.
    assert "**Bold**: the best attack of its row" not in few
    assert "**Bold**: the best attack of its row" in main_tables(cells, marked=True)


def test_the_csv_has_a_row_a_cell_and_property_with_units(cells: list[Measured]) -> None:
    text = details_csv(cells)
    rows = list(csv.DictReader(text.splitlines()))
    assert [(row["key"], row["property"]) for row in rows] == [
        (m.entry.key, name) for m in cells for name in m.entry.cell.properties
    ]
    first = rows[0]
    assert (first["attack"], first["B"], first["defense"]) == ("Proposed", "1", "none")
    assert first["group"] == "By defense"
    assert first["knows"] == "model, update, labels, auxiliary"
    names = ("balanced accuracy, %", "balanced accuracy low, %", "balanced accuracy high, %")
    assert [float(first[name]) for name in names] == [80.0, 77.0, 83.0]
    assert float(first["time per batch, s"]) == 0.8
    assert (first["steps per batch"], first["peak memory, MiB"]) == ("150", "500")
    assert first["classes"] == "8"
    assert {row["distortion"] for row in rows if row["defense"] == "none"} == {""}
    assert {row["distortion"] for row in rows if row["defense"] != "none"} == {"0.5"}
    # What no cell has is no column.
    assert "PSNR, dB" not in first


def test_no_two_columns_of_the_csv_have_the_same_name() -> None:
    metrics = [LABELS, "group", "attack", "knows", "property", "status", "key", *COST_HEADINGS]
    metrics += [*CELL_HEADINGS, *PROPERTY_HEADINGS]
    settings = {*Cell.model_fields, "data set", "main task", "B"} - {"attack"}
    assert len(metrics) == len(set(metrics))
    assert settings.isdisjoint(metrics)


def test_a_cell_in_two_groups_is_once_in_the_csv_and_a_failed_one_has_no_numbers(
    cells: list[Measured],
) -> None:
    first, second, third = cells[:3]
    again = replace(first, entry=replace(first.entry, group="=2+3 again"))
    broken = Measured(second.entry, failed(second.entry, "no"))
    frame = details([first, again, broken, Measured(third.entry, None)])
    assert list(frame.key) == [first.entry.key] * 4 + [second.entry.key]
    assert set(frame[frame.status == "done"].group) == {"By defense; =2+3 again"}
    assert frame[frame.status == "failed"].iloc[0]["balanced accuracy, %"] is None


def test_texts_of_the_csv_are_no_formulas(cells: list[Measured]) -> None:
    formula = '=HYPERLINK("https://evil.example","x")'
    (first, *_) = cells
    entry = replace(first.entry, group=formula, column="@SUM(A1)")
    assert first.record is not None and first.record.metrics is not None
    value = Estimate(value=0.5, low=None, high=None)
    (of_one, *_) = first.record.metrics.properties.values()
    named = first.record.metrics.model_copy(
        update={"properties": {f"+1{formula}": of_one}, "deployed": {formula: 0.5}}
    )
    record = first.record.model_copy(update={"metrics": named, "knowledge": ("\r=1", "x")})
    assert value.value is not None
    rows = list(csv.reader(details_csv([Measured(entry, record)]).splitlines()))
    fields = [field for row in rows for field in row]
    assert f"'{formula}" in fields and "'@SUM(A1)" in fields and f"'+1{formula}" in fields
    assert not [field for field in fields if field.lstrip().startswith(tuple("=+@"))]


def test_the_command_writes_both_files(run: Run, tmp_path: Path) -> None:
    entries: list[SuiteEntry] = suite_entries("quick")
    write_run(tmp_path / "out", map(done, entries))
    code, said, _ = run("report", "quick", "--out", "out")
    assert code == 0
    assert "The report is in out/quick.md, all metrics are in out/quick.csv." in said
    rows = list(csv.DictReader((tmp_path / "out" / "quick.csv").read_text().splitlines()))
    assert {row["key"] for row in rows} == {entry.key for entry in entries}
    text = (tmp_path / "out" / "quick.md").read_text()
    # What is printed are the same tables.
    assert said.split("\n\n")[1] in text
