"""Figures of accuracy by budget: what is drawn from records."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from drawing import SUITE, is_png, is_svg
from leakbench.experiments.expansion import SuiteEntry
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.records.record import Cost, Record
from leakbench.records.store import Store
from leakbench.reports.details import details
from leakbench.reports.figures.budget import figures as budget_figures
from records import record_of, suite_entries


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    return str(path)


Accuracy = Callable[[SuiteEntry, str], Estimate]
"""What a hand-made record says of a property."""


def growing(entry: SuiteEntry, name: str) -> Estimate:
    """60 % for controls; 50 % plus 10 for each tenfold budget for attacks, ± 5; glasses 2 more."""
    budget = entry.cell.attack_parameters.get("budget")
    value = 0.6 if budget is None else 0.4 + 0.1 * float(np.log10(budget))
    value += 0.02 * (name == "glasses")
    return Estimate(value=value, low=value - 0.05, high=value + 0.05)


def record(entry: SuiteEntry, accuracy: Accuracy) -> Record:
    return record_of(
        entry,
        {name: accuracy(entry, name) for name in entry.cell.properties},
        main_task={"accuracy": 0.5, "most_frequent_class": 0.3},
        classes=4,
    )


def measured(cells: Sequence[SuiteEntry], accuracy: Accuracy = growing) -> list[Measured]:
    return [Measured(cell, record(cell, accuracy)) for cell in cells]


def only_figure(cells: Sequence[Measured]) -> Figure:
    (figure,) = budget_figures(cells).values()
    assert figure is not None
    figure.canvas.draw()
    return figure


def lines(figure: Figure, panel: int) -> dict[str, tuple[list[float], list[float]]]:
    return {
        str(line.get_label()): (list(line.get_xdata()), np.round(line.get_ydata(), 6).tolist())
        for line in figure.axes[panel].lines
    }


def test_a_budget_figure_has_a_panel_a_property_and_a_line_an_attack(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite)))
    assert [ax.get_title() for ax in figure.axes] == ["gender", "glasses"]
    assert {ax.get_xscale() for ax in figure.axes} == {"log"}
    assert [label.get_text() for label in figure.axes[0].get_xticklabels()] == ["10", "100", "1k"]
    for panel, more in enumerate((0, 2)):
        found = lines(figure, panel)
        assert list(found) == ["Proposed", "Soft", "Blind", "Oracle"]
        assert found["Proposed"] == ([10, 100, 1000], [50 + more, 60 + more, 70 + more])
        assert found["Soft"] == found["Proposed"]


def test_controls_are_horizontal_lines_that_differ(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite)))
    assert lines(figure, 0)["Blind"] == ([0, 1], [60, 60])
    styles = {line.get_label(): line.get_linestyle() for line in figure.axes[0].lines}
    assert len({styles["Blind"], styles["Oracle"], styles["Proposed"]}) == 3


def test_a_band_shows_an_attack_s_interval(suite: str) -> None:
    (band, *_) = only_figure(measured(suite_entries(suite))).axes[0].collections
    corners = band.get_paths()[0].vertices
    for budget, value in ((10, 50), (100, 60), (1000, 70)):
        heights = corners[np.isclose(corners[:, 0], budget)][:, 1]
        assert (heights.min(), heights.max()) == pytest.approx((value - 5, value + 5))


def test_every_interval_lies_within_the_axes(suite: str) -> None:
    low, high = only_figure(measured(suite_entries(suite))).axes[0].get_ylim()
    assert low < 45
    assert high > 77


def test_attacks_have_colours_of_their_own(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite)))
    colours = [to_hex(line.get_color()) for line in figure.axes[0].lines[:2]]
    assert len(set(colours)) == 2
    assert colours == [to_hex(line.get_color()) for line in figure.axes[1].lines[:2]]


def test_nothing_that_is_written_overlaps(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite)))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        *("Proposed", "Soft", "Blind", "Oracle"),
    ]
    assert figure._suptitle is not None
    boxes = [legend.get_window_extent(), figure._suptitle.get_window_extent()]
    boxes += [ax.get_tightbbox() for ax in figure.axes]
    for number, box in enumerate(boxes):
        assert box is not None
        assert not any(box.overlaps(other) for other in boxes[:number])
        assert figure.bbox.contains(box.x0, box.y0)
        assert figure.bbox.contains(box.x1, box.y1)


def test_an_attack_whose_budget_is_fixed_is_a_line_across(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite, "attack.soft.budget=100")))
    assert lines(figure, 0)["Soft"] == ([0, 1], [60, 60])
    assert lines(figure, 0)["Proposed"][0] == [10, 100, 1000]


def test_a_line_breaks_where_a_cell_has_no_number(suite: str) -> None:
    def undefined_at_100(entry: SuiteEntry, name: str) -> Estimate:
        if entry.cell.attack_parameters.get("budget") == 100:
            return Estimate(value=None, low=None, high=None)
        return growing(entry, name)

    cells = measured(suite_entries(suite), undefined_at_100)
    cells = [Measured(m.entry, None) if m.entry.cell.attack == "oracle" else m for m in cells]
    found = lines(only_figure(cells), 0)
    budgets, values = found["Proposed"]
    assert budgets == [10, 100, 1000]
    assert np.isnan(values).tolist() == [False, True, False]
    assert "Oracle" not in found


def test_settings_that_a_group_sweeps_besides_have_panels_of_their_own(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite, "batch_size=1,4", "properties=gender")))
    assert [ax.get_title() for ax in figure.axes] == ["gender\nB = 1", "gender\nB = 4"]


def test_a_single_budget_can_be_drawn(suite: str) -> None:
    figure = only_figure(measured(suite_entries(suite, "attack.budget=100")))
    assert lines(figure, 0)["Proposed"] == ([100], [60])


def test_all_metrics_are_told_apart_by_what_was_swept(suite: str) -> None:
    cells = [m for m in measured(suite_entries(suite)) if m.entry.layout == "budget"]
    cells = [Measured(m.entry, with_cost(m.record)) for m in cells]
    frame = details(cells)
    assert list(frame)[:6] == ["group", "attack", "data set", "main task", "B", "attack.budget"]
    rows = frame.fillna("").drop_duplicates("key")[["attack", "attack.budget"]]
    assert list(rows.itertuples(index=False, name=None)) == [
        ("Proposed", "10"),
        ("Soft", "10"),
        ("Blind", ""),
        ("Oracle", ""),
        ("Proposed", "100"),
        ("Soft", "100"),
        ("Proposed", "1000"),
        ("Soft", "1000"),
    ]


def with_cost(record: Record | None) -> Record:
    assert record is not None
    cost = Cost(seconds=1, steps=1, peak_memory_mib=1)
    return record.model_copy(update={"cost": cost})


def test_groups_without_a_record_are_not_drawn(suite: str) -> None:
    assert budget_figures([Measured(cell, None) for cell in suite_entries(suite)]) == {
        "budget": None
    }


Run = Callable[..., tuple[int, str, str]]


def write_records(folder: Path, cells: Sequence[SuiteEntry]) -> None:
    store = Store(folder / "records")
    for cell in cells:
        store.write(record(cell, growing))


def test_the_command_draws_the_records_that_exist(run: Run, suite: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_records(out, suite_entries(suite))
    code, printed, err = run("figure", "budget", suite, "--out", str(out))
    png, svg = (out / "figures" / f"small-budget.{ending}" for ending in ("png", "svg"))
    assert (code, err) == (0, "")
    assert printed == f"The figure is in {png}.\nThe figure is in {svg}.\n"
    assert is_png(png)
    assert is_svg(svg)
    before = png.read_bytes(), svg.read_bytes()
    run("figure", "budget", suite, "--out", str(out))
    assert (png.read_bytes(), svg.read_bytes()) == before


def test_several_groups_are_numbered(run: Run, suite: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    group = SUITE[SUITE.index('[[group]]\ntitle = "By budget"') :]
    Path(suite).write_text(SUITE + group.replace("By budget", "Again"))
    write_records(out, suite_entries(suite))
    assert run("figure", "budget", suite, "--out", str(out))[0] == 0
    names = ["small-budget-1.png", "small-budget-2.png"]
    assert sorted(path.name for path in (out / "figures").glob("*.png")) == names


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["budget", "SUITE"], r"no record of suite 'small' .*run `leakbench run .*small\.toml`"),
        (
            ["budget", "SUITE", "--only", "batch_size=12"],
            "no group with layout = .budget. .*--only",
        ),
        (["reconstructions", "SUITE", "--only", "attack=oracle"], "reconstructs images"),
        (["reconstructions", "SUITE", "--set", "attack.budgett=1"], "parameter 'budgett'"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(
    run: Run, suite: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    out = tmp_path / "out"
    named = [suite if argument == "SUITE" else argument for argument in arguments]
    code, printed, err = run("figure", *named, "--out", str(out))
    assert (code, printed) == (2, "")
    assert re.fullmatch(rf"leakbench: .*{message}.*", err.splitlines()[-1])
    assert "Traceback" not in err
    assert not out.exists()
