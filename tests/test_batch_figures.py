"""Figures of accuracy by batch size, and the looks of attacks in all figures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text

from drawing import is_png, is_svg
from leakbench.base.registry import ATTACKS
from leakbench.experiments.expansion import SuiteEntry, expand
from leakbench.experiments.suite import load_suite, suite_names
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.records.store import Store
from leakbench.reports.figures.batches import figures
from leakbench.reports.figures.styles import LOOKS, styles_of
from records import record_of, suite_entries

SUITE = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 300 }
properties = ["gender", "glasses"]
main_task = "hat+smile"
individuals = 12

[attack.ig]

[attack.feature]

[attack.soft]
attack = "feature"
title = "Soft"

[attack.mask_demixing]

[attack.blind]

[attack.labels]

[attack.oracle]
grant = ["model", "auxiliary", "features"]

[[group]]
title = "One size"
layout = "table2"
cell = { batch_size = 4 }

[[group]]
title = "Labels known"
layout = "table2"
sweep = { batch_size = [1, 4] }

[[group]]
title = "Labels known"
layout = "table2"
cell = { batch_size = 12 }

[[group]]
title = "By seed"
layout = "table2"
sweep = { batch_size = [1, 4], seed = [0, 1] }
"""

VALUES = {
    "ig": (0.7, 0.6, 0.5),
    "feature": (0.7, 0.6, 0.5),
    "mask_demixing": (0.8, 0.8, 0.8),
    "blind": (0.5, 0.52, 0.6),
    "labels": (0.55, 0.55, 0.55),
    "oracle": (0.8, 0.8, 0.8),
}
"""Attack → balanced accuracy at B = 1, 4, 12."""


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    return str(path)


def measured(cells: Sequence[SuiteEntry], group: str) -> list[Measured]:
    """The cells, with a record in this group: ± 5 points, 2 points more for glasses."""
    found = []
    for entry in cells:
        value = VALUES[entry.cell.attack][(1, 4, 12).index(entry.cell.batch_size)]
        shares = {
            name: Estimate(value=of, low=of - 0.05, high=of + 0.05)
            for name in entry.cell.properties
            for of in (value + 0.02 * (name == "glasses"),)
        }
        record = record_of(
            entry, shares, main_task={"accuracy": 0.5, "most_frequent_class": 0.3}, classes=4
        )
        found.append(Measured(entry, record if entry.group == group else None))
    return found


def drawn(cells: Sequence[Measured]) -> Figure:
    figure = figures(cells)["batches"]
    assert figure is not None
    figure.draw_without_rendering()
    return figure


@pytest.fixture(scope="module")
def figure(tmp_path_factory: pytest.TempPathFactory) -> Figure:
    path = tmp_path_factory.mktemp("suite") / "small.toml"
    path.write_text(SUITE)
    return drawn(measured(suite_entries(str(path)), "Labels known"))


def heights(ax: Axes) -> dict[str, list[float]]:
    return {str(line.get_label()): np.round(line.get_ydata(), 6).tolist() for line in ax.lines}


def test_a_panel_a_property_and_a_line_an_attack(figure: Figure) -> None:
    assert [ax.get_title() for ax in figure.axes] == ["gender", "glasses"]
    ticks = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert ticks == ["1", "4", "12"]
    for ax, more in zip(figure.axes, (0, 2), strict=True):
        found = heights(ax)
        assert (
            found["IG"] == found["Proposed"] == found["Soft"] == [70 + more, 60 + more, 50 + more]
        )
        assert found["Mask demixing"] == [80 + more] * 3


def test_points_of_attacks_stand_beside_each_other_with_their_intervals(figure: Figure) -> None:
    ax = figure.axes[0]
    lines = {str(line.get_label()): line for line in ax.lines}
    assert lines["IG"].get_xdata()[0] < lines["Proposed"].get_xdata()[0]
    bars = [segment for bars in ax.collections[1:] for segment in bars.get_segments()]
    starts = {(round(x, 6), round(low, 6)) for (x, low), _ in bars}
    assert (round(lines["IG"].get_xdata()[0], 6), 65) in starts
    assert len(bars) == 4 * 3


def test_the_band_is_from_the_best_baseline_at_each_size_to_the_oracle(figure: Figure) -> None:
    found = heights(figure.axes[0])
    assert found["best baseline"] == [55, 55, 60]
    assert found["oracle"] == [80, 80, 80]
    corners = figure.axes[0].collections[0].get_paths()[0].vertices.round(6)
    assert {(x, y) for x, y in corners.tolist()} >= {(0, 55), (2, 55), (0, 80), (2, 80)}


def test_every_line_is_named_at_its_end_and_no_name_is_on_another(figure: Figure) -> None:
    renderer = figure.canvas.get_renderer()
    for ax in figure.axes:
        names = [text.get_text() for text in ax.texts]
        assert sorted(names) == sorted(heights(ax))
        # The extent of the letters, without the line that leads to them.
        written = [Text.get_window_extent(text, renderer) for text in ax.texts]
        assert not any(one.overlaps(other) for one, other in combinations(written, 2))
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in written)
        colours = {text.get_text(): to_hex(text.get_color()) for text in ax.texts}
        lines = {str(line.get_label()): to_hex(line.get_color()) for line in ax.lines}
        assert colours == lines


def test_the_first_group_by_batch_size_with_records_is_drawn(suite: str) -> None:
    cells = suite_entries(suite)
    assert [ax.get_title() for ax in drawn(measured(cells, "By seed")).axes] == [
        *("gender, seed = 0", "glasses, seed = 0", "gender, seed = 1", "glasses, seed = 1"),
    ]
    assert figures(measured(cells, "One size")) == {"batches": None}
    only = [m for m in measured(cells, "One size") if m.entry.group == "One size"]
    assert figures(only) == {}


def test_an_attack_looks_the_same_whatever_stands_beside_it(suite: str) -> None:
    cells = measured(suite_entries(suite), "Labels known")
    styles = styles_of(cells)
    for column, attack in {
        "IG": "ig",
        "Proposed": "feature",
        "Mask demixing": "mask_demixing",
    }.items():
        alone = styles_of([m for m in cells if m.entry.column == column])[column]
        assert styles[column] == alone
        assert (alone.colour, alone.marker) == LOOKS[attack]
    assert len({style.colour for style in styles.values() if not style.control}) == 4


def test_attacks_of_every_suite_can_be_told_apart() -> None:
    own = {name for name in ATTACKS.names() if not ATTACKS.get(name).control}
    own = {name for name in own if ATTACKS.get(name).__module__.startswith("leakbench.")}
    assert own == set(LOOKS)
    assert len(set(LOOKS.values())) == len(LOOKS)
    for name in suite_names():
        groups: dict[str, list[Measured]] = {}
        for entry in expand(*load_suite(name)):
            groups.setdefault(entry.group, []).append(Measured(entry, None))
        for title, cells in groups.items():
            styles = [style for style in styles_of(cells).values() if not style.control]
            looks = {(style.colour, style.marker) for style in styles}
            assert len(looks) == len(styles), (name, title)


Run = Callable[..., tuple[int, str, str]]


def test_the_command_draws_the_group_that_is_named(run: Run, suite: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for group in ("Labels known", "By seed"):
        for m in measured(suite_entries(suite, only=["seed=0"]), group):
            if m.record is not None:
                Store(out / "records").write(m.record)
    arguments = ("figure", "batches", suite, "--only", "seed=0", "--out", str(out))
    code, printed, err = run(*arguments, "--group", "by SEED")
    png, svg = (out / "figures" / f"small-batches-by-seed.{ending}" for ending in ("png", "svg"))
    assert (code, err) == (0, "")
    assert printed == f"The figure is in {png}.\nThe figure is in {svg}.\n"
    assert is_png(png) and is_svg(svg)
    text = svg.read_text()
    assert "By seed" in text and "Labels known" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["batches", "SUITE"], "no record of suite 'small'"),
        (
            ["batches", "SUITE", "--group", "one size"],
            "no group with layout = .table2. that sweeps",
        ),
        (
            ["batches", "SUITE", "--group", "nobody"],
            "no group of suite 'small' has 'nobody' in its title; .*'Labels known', 'By seed'",
        ),
        (["features", "SUITE", "--group", "By seed"], "features is not drawn by groups; .*--only"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(
    run: Run, suite: str, tmp_path: Path, arguments: list[str], message: str
) -> None:
    named = [suite if argument == "SUITE" else argument for argument in arguments]
    code, printed, err = run("figure", *named, "--out", str(tmp_path / "out"))
    assert (code, printed) == (2, "")
    assert re.fullmatch(rf"leakbench: .*{message}.*", err.splitlines()[-1])
    assert not (tmp_path / "out").exists()
