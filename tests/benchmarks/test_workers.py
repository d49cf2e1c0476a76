"""How much sooner two workers end a suite of independent cells than one does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

from matrix import pytest_generate_tests  # noqa: F401

SUITE = """
title = "Independent cells"

[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = {{ individuals = 600 }}
properties = ["gender"]
main_task = "8-class"
rounds = 3
victim_share = 0.2
individuals = 32
batch_size = 8

[attack.feature]

[[group]]
title = "Budgets"
layout = "budget"
sweep = {{ "attack.budget" = {budgets} }}
"""


class Measurement(NamedTuple):
    """A suite of cells that are about equally long."""

    cells: int
    budget: int


def measurements(full: bool) -> list[Measurement]:
    """Return what is measured."""
    return [Measurement(12, 150) if full else Measurement(2, 2)]


def seconds(suite: Path, workers: int, out: Path) -> float:
    """Return how long a run takes whose shared work is in the cache."""
    command = [sys.executable, "-m", "leakbench", "run", str(suite), "--device", "cpu"]
    began = time.perf_counter()
    subprocess.run(
        [*command, "--compile", "off", "--workers", str(workers), "--out", str(out)],
        check=True,
        capture_output=True,
        env={**os.environ},
        timeout=1500,
    )
    return time.perf_counter() - began


def test_two_workers(measurement: Measurement, benchmark: Any, tmp_path: Path) -> None:
    cells, budget = measurement
    suite = tmp_path / "independent.toml"
    suite.write_text(SUITE.format(budgets=[2]))
    seconds(suite, 1, tmp_path / "warm")
    suite.write_text(SUITE.format(budgets=[budget + number for number in range(cells)]))

    def one_and_two() -> dict[str, list[float]]:
        rounds = [(seconds(suite, n, tmp_path / f"{n}-{r}")) for r in range(2) for n in (1, 2)]
        return {"one": rounds[::2], "two": rounds[1::2]}

    found = benchmark.pedantic(one_and_two, rounds=1)
    assert all(value > 0 for times in found.values() for value in times)
    benchmark.extra_info |= {"kind": "workers", **measurement._asdict(), **found}
