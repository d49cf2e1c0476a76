"""`leakbench check` says the same of a plugin whatever number of threads PyTorch may use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import faulty_attacks
from leakbench.base.devices import computing_reproducibly
from leakbench.base.registry import ATTACKS
from leakbench.conformance.attack_trial import AttackTrial
from leakbench.conformance.attacks import ATTACK_CHECKS
from leakbench.conformance.check import Check, outcome_of

NAME = "leaking_between_victims"


@pytest.fixture(params=[1, 2, 8])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_checks_compute_with_one_thread_and_leave_the_number_as_it_was(threads: int) -> None:
    seen: list[int] = []
    outcome_of(Check("a check", lambda _: seen.append(torch.get_num_threads())), AttackTrial("ig"))
    assert seen == [1]
    assert torch.get_num_threads() == threads


def test_the_number_of_threads_is_as_before_after_an_error(threads: int) -> None:
    with pytest.raises(RuntimeError, match="stop"), computing_reproducibly():
        raise RuntimeError("stop")
    assert torch.get_num_threads() == threads


def test_a_plugin_that_mixes_victims_is_caught_with_any_number_of_threads(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTACKS._plugins, NAME, faulty_attacks.Crowded)
    monkeypatch.setattr(faulty_attacks.Crowded, "name", NAME, raising=False)
    found = outcome_of(beside_others(), AttackTrial(NAME)).finding
    assert "when it is shown another beside it" in found


def beside_others() -> Check:
    return next(each for each in ATTACK_CHECKS if each.name.startswith("answers each batch as if"))


def test_a_shipped_attack_answers_each_batch_as_if_alone_with_any_number_of_threads(
    threads: int,
) -> None:
    assert outcome_of(beside_others(), AttackTrial("ig")).finding == ""


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.parametrize("count", ["1", "2", "8"])
@pytest.mark.parametrize("name", ATTACKS.own())
def test_a_shipped_attack_conforms_where_there_are_several_threads(
    name: str, count: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "leakbench", "check", name],
        env={**os.environ, "OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "conforms" in done.stdout
