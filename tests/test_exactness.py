"""The table and the figure of individuals found exactly, from hand-made records."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from leakbench.experiments.expansion import SuiteEntry
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.records.record import Certificates, Claimed, Cost, Record
from leakbench.reports.details import details
from leakbench.reports.figures import phase
from leakbench.reports.suite_report import main_tables
from records import record_of, suite_entries, table_rows

SUITE = """
title = "Small"

[cell]
dataset = "synthetic"
properties = ["gender"]
individuals = 32
grant = ["model", "update", "auxiliary"]

[attack.mask_demixing]

[attack.blind]
parameters = { labels = "ignored" }

[[group]]
title = "Exact"
layout = "exact"

[group.sweep]
main_task = ["hat", "hat+dark_hair"]
model_parameters = [{ hidden = 64 }, { hidden = 128 }]
batch_size = [8, 32]
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    return path


ATTACK = ["attack=mask_demixing"]


def record(entry: SuiteEntry) -> Record:
    """Exact for all but B = 32 at 64 units, of whom half are."""
    hard = entry.cell.batch_size == 32 and entry.cell.model_parameters["hidden"] == 64
    share = 0.5 if hard else 1.0
    estimate = Estimate(value=share, low=share - 0.1, high=share)
    found = record_of(
        entry,
        {"gender": estimate},
        feature_cosine=estimate,
        exact=estimate,
        certificates=Certificates(share=0.25 if hard else 1.0, false=2 if hard else 0),
        claimed=Claimed(share=0.5 if hard else 1.0, right=0.9 if hard else 1.0),
        main_task={"accuracy": 0.5, "most_frequent_class": 0.5},
        classes=2,
    )
    return found.model_copy(update={"cost": Cost(seconds=8.0, steps=0, peak_memory_mib=1)})


def measured(cells: Sequence[SuiteEntry]) -> list[Measured]:
    return [Measured(cell, record(cell)) for cell in cells]


def test_the_table_has_a_row_a_cell_and_says_what_is_exact_and_how_long_it_took(
    suite: Path,
) -> None:
    rows = table_rows(measured(suite_entries(str(suite), only=ATTACK)))
    assert rows[0] == ["main task", "m", "B", "Mask demixing"]
    assert rows[2] == [
        "hat (K = 2)",
        "64",
        "8",
        "100.0 [90.0, 100.0] (4 batches), certified 100.0, 2 s",
    ]
    claimed = "claimed 50.0, 90.0 of these rightly"
    exact = f"50.0 [40.0, 50.0] (1 batch), certified 25.0 (2 falsely), {claimed}, 8 s"
    assert rows[3] == ["", "", "32", exact]
    assert [row[1] for row in rows[2:]] == ["64", "", "128", ""] * 2


def test_cells_without_a_record_are_missing(suite: Path) -> None:
    *others, last = suite_entries(str(suite), only=ATTACK)
    text = main_tables([*measured(others), Measured(last, None)])
    assert len([line for line in text.splitlines() if line.startswith("|")]) == 2 + 7
    assert "No data for 1 row: main task = hat+dark_hair (K = 4), m = 128, B = 32." in text
    none = main_tables([Measured(cell, None) for cell in (*others, last)])
    assert "No data: none of 8 rows has been measured." in none
    assert "|" not in none


def test_details_count_false_certificates(suite: Path) -> None:
    frame = details(measured(suite_entries(str(suite), only=ATTACK)))
    found = zip(frame["certified, %"], frame["certified falsely"], strict=True)
    assert set(found) == {(100.0, 0), (25.0, 2)}


def texts(figure: Figure, panel: int) -> list[str]:
    return [text.get_text() for text in figure.axes[panel].texts]


def test_the_phase_figure_has_a_panel_a_main_task_with_shares_above_seconds(
    suite: Path,
) -> None:
    *others, last = suite_entries(str(suite), only=ATTACK)
    found = phase.figures([*measured(others), Measured(last, None)])
    assert list(found) == ["phase-1"]
    figure = found["phase-1"]
    assert figure is not None
    figure.canvas.draw()
    assert [ax.get_title() for ax in figure.axes[:2]] == ["hat (K = 2)", "hat+dark_hair (K = 4)"]
    assert texts(figure, 0) == ["100", "50", "100", "100"]
    assert texts(figure, 2) == ["2", "8", "2", "8"]
    # What is not measured stays blank.
    assert texts(figure, 1) == ["100", "50", "100"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["64", "128"]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["8", "32"]


def test_what_else_differs_has_panels_of_its_own(suite: Path) -> None:
    suite.write_text(SUITE.replace('["hat", "hat+dark_hair"]', '["hat"]\nseed = [0, 1]'))
    found = phase.figures(measured(suite_entries(str(suite))))
    figure = found["phase-1"]
    assert figure is not None
    titles = [ax.get_title() for ax in figure.axes[:2]]
    assert titles == ["hat (K = 2), seed = 0", "hat (K = 2), seed = 1"]


def test_another_parameter_of_the_model_is_a_column(suite: Path) -> None:
    suite.write_text(SUITE.replace("{ hidden = 128 }", "{ hidden = 128, width = 8 }"))
    head, *rows = table_rows(measured(suite_entries(str(suite))))
    column = head.index("model.width")
    assert {"32", "8"} <= {row[column] for row in rows}


def test_hidden_units_are_shown_where_there_are_hidden_layers(suite: Path) -> None:
    deep = "{ name = 'mobilenet_v2', hidden = 64 }, { name = 'mobilenet_v2', hidden_layers = 0 }"
    changed = SUITE.replace(
        "model_parameters = [{ hidden = 64 }, { hidden = 128 }]", f"model = [{deep}]"
    )
    suite.write_text(changed.replace('"hat", "hat+dark_hair"', '"hat"'))
    head, *rows = table_rows(measured(suite_entries(str(suite))))
    units = {row[head.index("m")] for row in rows if row[head.index("B")] in {"8", "32"}}
    assert units - {""} == {"64", "–"}


def test_a_control_has_no_phases(suite: Path) -> None:
    every = suite_entries(str(suite))
    assert {p.cell.attack for p in every} == {"mask_demixing", "blind"}
    assert list(phase.figures(measured(every))) == ["phase-1"]


def test_nothing_is_drawn_of_one_number_of_units_or_without_records(suite: Path) -> None:
    cells = suite_entries(str(suite), only=ATTACK)
    one = [p for p in cells if p.cell.model_parameters["hidden"] == 64]
    assert phase.figures(measured(one)) == {}
    assert phase.figures([Measured(p, None) for p in cells]) == {"phase-1": None}
