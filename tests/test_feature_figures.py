"""Figures of deep features before and after training."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from leakbench.base.errors import UsageError
from leakbench.metrics.estimates import Estimate
from leakbench.reports.figures.features import Embedded, feature_figure, rounds_drawn
from records import suite_entries

SUITE = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 300 }
properties = ["gender", "glasses"]
main_task = "hat+smile"
model_parameters = { width = 4 }
clients = 2
rounds = 3
victim_share = 0.2
individuals = 8

[attack.feature]

[[group]]
title = "Table 2"
layout = "table2"
sweep = { batch_size = [1] }
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    return str(path)


def test_features_are_drawn_before_and_after_training(suite: str) -> None:
    (cell, *_) = (each.cell for each in suite_entries(suite))
    assert rounds_drawn(cell) == (0, 3)
    with pytest.raises(UsageError, match="trains for 0 rounds"):
        rounds_drawn(cell.model_copy(update={"rounds": 0}))


def test_a_panel_of_features_has_a_point_for_each_individual_by_property(suite: str) -> None:
    positions = np.arange(12, dtype=np.float32).reshape(6, 2)
    present = {"gender": np.array([True, False, False, True, False, False])}
    rounds = [
        Embedded(n, positions, present, {"gender": Estimate(value=0.7, low=0.68, high=0.72)})
        for n in (0, 3)
    ]
    figure = feature_figure(suite_entries(suite)[0].cell, rounds)
    figure.canvas.draw()
    assert [ax.get_ylabel() for ax in figure.axes] == ["round 0", "round 3"]
    assert figure.axes[1].get_title() == "gender: 70.0 [68.0, 72.0]"
    without, having = (np.asarray(c.get_offsets()) for c in figure.axes[0].collections)
    np.testing.assert_array_equal(having, positions[present["gender"]])
    np.testing.assert_array_equal(without, positions[~present["gender"]])


def test_the_command_draws_features_and_says_how_well_f_p_reads_them(
    run: Run, suite: str, tmp_path: Path
) -> None:
    (tmp_path / ".git").mkdir()
    out = tmp_path / "out"
    arguments = ["--out", str(out), "--device", "cpu", "--set", "property_model=logistic"]
    code, printed, _ = run("figure", "features", suite, *arguments)
    assert code == 0
    said = printed.splitlines()
    assert [line.partition(":")[0] for line in said[:4]] == [
        *("round 0, gender", "round 0, glasses", "round 3, gender", "round 3, glasses"),
    ]
    assert all(re.search(r": f_p \d+\.\d \[.*\] % balanced accuracy$", line) for line in said[:4])
    assert [Path(line.split()[-1].rstrip(".")).name for line in said[4:]] == [
        *("small-features.png", "small-features.svg"),
    ]


def test_too_few_victims_for_t_sne_are_refused(run: Run, suite: str, tmp_path: Path) -> None:
    few = ["--set", "victim_share=0.05", "--set", "property_model=logistic"]
    code, _, err = run("figure", "features", suite, *few, "--out", str(tmp_path / "out"))
    assert code == 2
    assert re.search(r"more than 30 victims, and there are \d+; raise `victim_share`", err)
