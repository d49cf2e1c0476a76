"""What a terminal shows of a suite: a conclusion first, and tables that fit its width."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.reports.conclusion import NOTHING_TO_COMPARE, Conclusion, conclusion, leads
from leakbench.reports.terminal import print_report
from publishing import HOSTILE, defended_suite, done, failed, write_run
from records import suite_entries

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def cells(tmp_path: Path) -> list[Measured]:
    return [Measured(e, done(e)) for e in suite_entries(str(defended_suite(tmp_path)))]


def with_values(cells: list[Measured], value: Callable[[Measured], float | None]) -> list[Measured]:
    """The cells with the balanced accuracies that a function returns, where it returns one."""
    return [Measured(m.entry, done(m.entry, value(m))) for m in cells]


def test_the_conclusion_names_attack_advantage_and_batch_size(cells: list[Measured]) -> None:
    best = with_values(
        cells,
        lambda m: 0.9 if (m.entry.column, m.entry.cell.batch_size) == ("IG", 8) else None,
    )
    only = [m for m in best if m.entry.cell.defense == "none"]
    # Blind, the better control, has 55 %; each interval is 3 points to both sides.
    assert conclusion(only) == Conclusion(
        "IG leads by 35.0 points [30.8, 39.2].",
        "Points of balanced accuracy above the best control with its knowledge, at B = 8, mean of "
        "4 properties (“By defense”); the largest of 6 comparisons.",
    )
    under = with_values(
        cells,
        lambda m: 0.99 if (m.entry.column, m.entry.cell.defense) == ("IG", "quantise") else None,
    )
    assert "at B = 1, defense = quantise, level = bits = 4, mean" in conclusion(under).details


def test_the_conclusion_is_honest_where_nothing_is_above_a_control(cells: list[Measured]) -> None:
    level = with_values(cells, lambda m: 0.57 if m.entry.column in ("IG", "Proposed") else 0.55)
    assert conclusion(level).headline == "No attack is certainly above the best control."
    assert conclusion(level).details.startswith(
        "The nearest is Proposed: 2.0 points [-2.2, 6.2] of balanced accuracy above the best "
        "control with its knowledge, at B = 1"
    )
    below = with_values(cells, lambda m: 0.5 if m.entry.column == "IG" else 0.55)
    without = [m for m in below if m.entry.column != "Proposed"]
    assert "The nearest is IG: -5.0 points [" in conclusion(without).details


def test_a_lead_without_an_interval_is_not_certain(cells: list[Measured]) -> None:
    def bare(m: Measured) -> Measured:
        assert m.record is not None and m.record.metrics is not None
        properties = {
            name: of.model_copy(
                update={
                    "balanced_accuracy": Estimate(
                        value=of.balanced_accuracy.value, low=None, high=None
                    )
                }
            )
            for name, of in m.record.metrics.properties.items()
        }
        metrics = m.record.metrics.model_copy(update={"properties": properties})
        return Measured(m.entry, m.record.model_copy(update={"metrics": metrics}))

    said = conclusion([*map(bare, cells)])
    assert said.headline.startswith("No attack is certainly above")
    assert "25.0 points (too few victim batches for an interval)" in said.details


def test_an_attack_without_all_its_controls_is_not_compared(cells: list[Measured]) -> None:
    assert conclusion([m for m in cells if m.entry.column in ("IG", "Proposed")]) == (
        NOTHING_TO_COMPARE
    )
    lacking = [Measured(m.entry, None if m.entry.column == "Labels" else m.record) for m in cells]
    assert leads(lacking) == []


def shown(cells: list[Measured], width: int) -> list[str]:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=True, color_system=None)
    print_report(console, cells)
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 120, 260])
def test_tables_fit_the_width_and_say_which_columns_are_left_out(
    cells: list[Measured], width: int
) -> None:
    lines = shown(cells, width)
    assert max(map(cell_len, lines)) <= width
    text = " ".join(" ".join(lines).split())
    assert text.startswith("Proposed leads by 25.0 points")
    assert "individuals in each cell" not in text
    said = text.partition("Left out at this width: ")[2].partition(".")[0]
    if width == 40:
        # Too narrow for one attack: its values are broken.
        assert said.startswith("IG, Blind, Labels, utility")
        return
    heading = next(line for line in lines if line.startswith("property"))
    assert "Proposed" in heading
    names = ("IG", "Blind", "Labels", "distortion")
    assert all((name in heading) != (name in said.split(", ")) for name in names)
    assert (said == "") == (width == 260)
    assert any("80.0 [77.0, 83.0] ★" in line for line in lines)


def test_texts_of_records_do_not_command_the_terminal(cells: list[Measured]) -> None:
    hostile = f"\x1b]0;title\x07 [red]{HOSTILE}"
    (first, *others) = cells
    named = [replace(m, entry=replace(m.entry, group=hostile, column=hostile)) for m in cells]
    broken = Measured(first.entry, failed(first.entry, hostile))
    text = "\n".join([*shown(named, 100), *shown([broken, *others], 100)])
    assert "\x1b]" not in text and "\x07" not in text
    assert "[red]" in text


def test_what_is_missing_is_said(cells: list[Measured]) -> None:
    (first, second, *others) = cells
    some = [Measured(first.entry, failed(first.entry, "no memory")), Measured(second.entry, None)]
    text = " ".join(shown([*some, *others], 200))
    assert "1 of 48 cells are not measured yet" in text
    assert "Failed: Proposed" in text and "no memory" in text


def test_only_a_terminal_gets_a_conclusion(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "out", map(done, suite_entries("quick")))
    monkeypatch.setenv("FORCE_COLOR", "1")
    _, piped, _ = run("report", "quick", "--out", "out")
    page = (tmp_path / "out" / "quick.md").read_text()
    assert piped.startswith("## ")
    assert "- individuals in each cell" in piped
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    _, at_terminal, _ = run("report", "quick", "--out", "out")
    assert " leads by " in at_terminal.splitlines()[0]
    assert "- individuals in each cell" not in at_terminal
    assert "The report is in out/quick.md" in at_terminal
    assert (tmp_path / "out" / "quick.md").read_text() == page
