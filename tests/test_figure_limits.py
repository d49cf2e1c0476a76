"""Limits that figures draw, looks that attacks keep, and labels that hide nothing."""

from __future__ import annotations

from itertools import combinations
from math import log2
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from leakbench.experiments.expansion import SuiteEntry
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.records.record import Cost
from leakbench.reports.figures import batches, phase
from leakbench.reports.figures.canvas import blank_figure
from leakbench.reports.figures.demixing_limit import LIMIT, hidden_units
from leakbench.reports.figures.point_labels import PointLabel, label_points
from leakbench.reports.figures.styles import LOOKS, styles_of
from records import record_of, suite_entries

SUITE = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
properties = ["gender"]
main_task = "hat"
individuals = 32

[attack.adaptive]
attack = "mask_demixing"
title = "Adaptive"

[attack.mask_demixing]

[attack.ig]

[[group]]
title = "By size"
layout = "table2"
cell = { model_parameters = { hidden = 32 } }
sweep = { batch_size = [1, 8] }

[[group]]
title = "Exact"
layout = "exact"

[group.sweep]
batch_size = [8, 32]
model_parameters = [{ hidden = 32 }, { hidden = 128 }]
"""


def measured(entry: SuiteEntry) -> Measured:
    half = Estimate(value=0.5, low=0.4, high=0.6)
    found = record_of(
        entry,
        {"gender": half},
        exact=half,
        main_task={"accuracy": 0.5, "most_frequent_class": 0.5},
        classes=2,
    )
    return Measured(
        entry, found.model_copy(update={"cost": Cost(seconds=2.0, steps=0, peak_memory_mib=1)})
    )


@pytest.fixture
def cells(tmp_path: Path) -> list[Measured]:
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    return [measured(entry) for entry in suite_entries(str(path))]


def of(cells: list[Measured], *attacks: str) -> list[Measured]:
    return [m for m in cells if m.entry.cell.attack in attacks]


def drawn(found: dict[str, Figure | None], name: str) -> Figure:
    figure = found[name]
    assert figure is not None
    return figure


def title_of(figure: Figure) -> str:
    return " ".join((figure.get_suptitle() or "").split())


def test_the_map_of_mask_demixing_has_a_line_where_b_is_half_of_m(cells: list[Measured]) -> None:
    figure = drawn(phase.figures(of(cells, "mask_demixing")), "phase-1")
    for ax in figure.axes:
        (line,) = [line for line in ax.lines if line.get_label() == LIMIT]
        # m = 32: between B = 8 and 32; m = 128: to the right of both.
        assert [*line.get_xdata()] == [0.5, 0.5, 1.5, 1.5]
        assert [*line.get_ydata()] == [-0.5, 0.5, 0.5, 1.5]
    assert LIMIT in title_of(figure)
    other = drawn(phase.figures(of(cells, "ig")), "phase-1")
    assert not any(ax.lines for ax in other.axes)
    assert LIMIT not in title_of(other)


def test_accuracy_by_batch_size_shows_how_far_mask_demixing_reaches(cells: list[Measured]) -> None:
    figure = drawn(batches.figures(cells), "batches")
    ax = figure.axes[0]
    assert log2(16) in [line.get_xdata()[0] for line in ax.lines if len(line.get_xdata()) == 2]
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1", "8", "16"]
    assert ax.get_xlim()[1] > log2(16)
    assert f"{LIMIT} = 16" in title_of(figure)
    without = drawn(batches.figures(of(cells, "ig")), "batches")
    assert LIMIT not in title_of(without)
    assert [tick.get_text() for tick in without.axes[0].get_xticklabels()] == ["1", "8"]


def test_hidden_units_are_the_model_s_where_the_cell_names_none(cells: list[Measured]) -> None:
    cell = cells[0].entry.cell
    assert hidden_units(cell) == 32
    assert hidden_units(cell.model_copy(update={"model_parameters": {}})) == 256
    # Behind these features there is no hidden layer.
    assert hidden_units(cell.model_copy(update={"split": "hidden"})) is None
    deep = {"model": "small_cnn_mlp", "model_parameters": {"hidden_layers": 2}}
    assert hidden_units(cell.model_copy(update=deep)) is None


def test_an_attack_keeps_its_look_where_a_variant_comes_first(cells: list[Measured]) -> None:
    styles = styles_of(cells)
    assert next(iter(styles)) == "Adaptive"
    assert (styles["Mask demixing"].colour, styles["Mask demixing"].marker) == (
        LOOKS["mask_demixing"]
    )
    assert styles["Adaptive"].colour != styles["Mask demixing"].colour


def test_labels_of_crowded_points_hide_no_other_and_no_point() -> None:
    figure = blank_figure(5, 3)
    ax = figure.subplots()
    crowd = [(0.1 * (number % 4), 0.2 * (number // 4)) for number in range(12)]
    points = [(20.0, 5.0), *crowd]
    for x, y in points:
        ax.plot([x], [y], marker="o", markersize=5.5)
    labels = [PointLabel(f"level {n}", x, y, "black") for n, (x, y) in enumerate(points)]
    label_points(figure, {ax: labels}, 7)
    written = [text.get_text() for text in ax.texts]
    assert written[0] == "level 0" and 1 < len(written) < len(labels)
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    for place in ax.transData.transform(points):
        assert not any(box.contains(*place) for box in boxes)
