"""Cells that may be left out: where their data are not there, the table says what they need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

SUITE = """
title = "Wheels"

[cell]
image_size = 32
model_parameters = { width = 4 }
properties = ["wheel"]
rounds = 1
victim_share = 0.2
individuals = 16
batch_size = 1

[attack.prior]

[[group]]
title = "Table 1"
layout = "table1"
cell = { dataset = "synthetic", dataset_parameters = { subject = "vehicles", individuals = 200 }, main_task = "2-class" }

[[group]]
title = "Table 1"
layout = "table1"
optional = true
cell = { dataset = "lad", main_task = "Attr_V_181" }
"""  # noqa: E501

NEEDS = "needs LAD_annotations/ and images/ from https://github.com/PatrickZH/"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def suite(tmp_path: Path) -> str:
    path = tmp_path / "wheels.toml"
    path.write_text(SUITE)
    return str(path)


def test_an_optional_row_whose_data_are_not_there_says_what_it_needs(run: Run, suite: str) -> None:
    code, out, err = run("run", suite, "--device", "cpu", "--workers", "1")
    assert code == 0
    lines = [line.split("|") for line in out.splitlines() if line.startswith("| ")]
    rows = {line[1].strip(): line[3].strip() for line in lines}
    assert "lad" not in rows
    assert "No data for 1 row: data set = lad" in out
    assert rows["synthetic vehicles"].startswith("50.0 ")
    assert f"lad (–) {NEEDS}" in out
    assert "are not measured yet" not in out
    assert err.count("left out: data set 'lad' needs real data: no --data-root given") == 1
    again = run("report", suite)[1]
    assert f"lad (–) {NEEDS}" in again


def test_asked_for_alone_it_is_an_error(run: Run, suite: str) -> None:
    code, out, err = run("run", suite, "--only", "dataset=lad")
    assert (code, out) == (2, "")
    assert err.startswith("leakbench: data set 'lad' needs real data: no --data-root given")


def test_a_row_that_is_not_optional_stops_the_run(run: Run, suite: str, tmp_path: Path) -> None:
    path = tmp_path / "must.toml"
    path.write_text(SUITE.replace("optional = true\n", ""))
    code, out, err = run("run", str(path))
    assert (code, out) == (2, "")
    assert err.startswith("leakbench: data set 'lad' needs real data")
