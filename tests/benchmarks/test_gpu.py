"""What `tox -e gpu` does, as far as it can be seen without a GPU."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import gpu
import pytest
import torch

from leakbench.experiments.expansion import expand
from leakbench.experiments.suite import load_suite
from pretended_device import pretended_device


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_it_says_so_in_one_sentence(tmp_path: Path) -> None:
    target = tmp_path / "gpu.md"
    done = subprocess.run(
        [sys.executable, gpu.__file__, str(target)], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (gpu.NOTHING + "\n", "")
    assert not target.exists()


def test_the_engines_compute_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "STEPS", 2)
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    with pretended_device() as device:
        row = gpu.step_of("Proposed", 2, 2, device)
    assert float(str(row[f"leakbench, {device}"])) > 0


def test_its_suite_is_a_short_table_2() -> None:
    entries = expand(*load_suite(str(gpu.SUITE)))
    assert {entry.layout for entry in entries} == {"table2"}
    assert len(entries) == 12


def test_the_page_has_every_part_and_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []

    def ended(command: Sequence[str], seconds: float) -> tuple[int | None, str, float]:
        given.append(seconds)
        if "pytest" in command:
            assert "cuda" in command
            return 1, "FAILED tests/x.py::y - RuntimeError\n= 1 failed, 400 passed in 9.0s =\n", 9.0
        return None, "text\n\n| B | Proposed |\n|---|---|\n| 1 | 90 |\n\nmore", 200.0

    monkeypatch.setattr(gpu, "ended", ended)
    monkeypatch.setattr(gpu, "step_of", lambda attack, *_: {"attack": attack})
    parts = gpu.measured(time.monotonic() + gpu.LIMIT, tmp_path / "runs", "cuda")
    assert [part.failed for part in parts] == [True, True, False]
    assert given == pytest.approx([0.5 * gpu.LIMIT, 0.6 * gpu.LIMIT], abs=5)
    page = gpu.page("A GPU", parts)
    assert "1 failed, 400 passed in 9.0s.\n\n- FAILED tests/x.py::y - RuntimeError" in page
    assert "took 200 s, and was ended then" in page
    assert "| 1 | 90 |" in page
    assert "| Proposed |" in page


def test_a_part_that_is_over_its_limit_is_ended_with_its_processes() -> None:
    began = time.monotonic()
    code, out, _ = gpu.ended(["bash", "-c", "echo begun; sleep 60 & sleep 60"], 1.0)
    assert (code, out) == (None, "begun\n")
    assert time.monotonic() - began < 20
