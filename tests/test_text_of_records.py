"""Texts of records, which anybody may have written, stay texts in all that is made of them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from leakbench.base.markdown import harmless
from leakbench.base.registry import ATTACKS
from leakbench.experiments.expansion import SuiteEntry
from leakbench.records.data_frame import results, write_results
from leakbench.records.record import Record
from leakbench.sweep.suite_tables import report_suite
from publishing import HOSTILE, Hostile, done, failed, write_run
from records import suite_entries

LINES = f"{HOSTILE}\n\n# Heading of its own\n\n[b]: javascript:alert(1) \x1b]0;title\x07\x9b31m"
OWN = ("<details>", "</details>", "<summary>", "</summary>", "[a CSV file](quick.csv)")
"""Markup of a report that is its own."""

FORMULA = '=HYPERLINK("https://evil.example","x")'


@pytest.fixture
def cells() -> list[SuiteEntry]:
    return suite_entries("quick")


def hostile(cells: list[SuiteEntry]) -> list[Record]:
    """Return records of a suite whose free texts try to be more than that."""
    first, *others = cells
    texts: dict[str, Any] = {
        "versions": {f"[b]: javascript:x {LINES}": LINES},
        "device": LINES,
        "fingerprint": LINES,
        "knowledge": (LINES,),
    }
    return [failed(first, LINES), *(done(each, **texts) for each in others)]


def test_a_report_has_no_html_link_heading_or_escape_of_a_record(
    cells: list[SuiteEntry],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(ATTACKS._plugins, "feature", Hostile)
    write_run(tmp_path, hostile(cells))
    (tmp_path / "quick.reading.md").write_text("A [link](fig5.md) of one's own: κ < 1.\n")
    report_suite("quick", [], [], tmp_path)
    text = (tmp_path / "quick.md").read_text()
    printed = capsys.readouterr().out
    assert "A [link](fig5.md) of one's own: κ < 1." in text
    text = text.replace("A [link](fig5.md) of one's own: κ < 1.", "")
    for part in ("evil.example", "Heading of its own"):
        assert part in text
        assert part in printed
    for part in OWN:
        text = text.replace(part, "")
    for part in ("<", "](", "]:", "\n# Heading", "\n[b]"):
        assert part not in text, part
    for part in ("\x1b", "\x07", "\x9b"):
        assert part not in text + printed


def test_ordinary_markdown_stays_as_it_is() -> None:
    text = "# T\n\n| a |\n|:--|\n| **1.0 [0.9, 1.1]** |\n\n- κ ≥ 1, `ig`: “x”\n"
    assert harmless(text) == text


def test_a_csv_file_has_no_formula(cells: list[SuiteEntry], tmp_path: Path) -> None:
    texts = (FORMULA, "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", " =1")
    records = [failed(cells[i], text) for i, text in enumerate((*texts, "x\r=1", "x\r\n=1"))]
    record = done(cells[len(records)])
    assert record.metrics is not None
    (value, *_) = record.metrics.properties.values()
    metrics = record.metrics.model_copy(update={"properties": {FORMULA: value}})
    out = write_run(tmp_path / "out", [*records, record.model_copy(update={"metrics": metrics})])
    write_results(out, tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert len({len(row) for row in rows}) == 1
    fields = [field for row in rows for field in row]
    assert {f"'{text}" for text in texts} <= {*fields}
    assert not [field for field in fields if field.lstrip().startswith(tuple("=+@"))]


def test_a_csv_file_of_ordinary_records_is_the_data_frame(
    cells: list[SuiteEntry], tmp_path: Path
) -> None:
    out = write_run(tmp_path / "out", map(done, cells))
    write_results(out, tmp_path / "x.csv")
    results(out).to_csv(tmp_path / "y.csv", index=False)
    assert (tmp_path / "x.csv").read_text() == (tmp_path / "y.csv").read_text()
    assert len(pd.read_csv(tmp_path / "x.csv")) == len(results(out))
