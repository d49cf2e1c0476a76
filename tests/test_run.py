"""A run loses nothing, duplicates nothing, and resumes where it was."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from running import SUITE, command, environment, outside_attack, records, run


def test_a_run_prints_and_writes_its_tables(undisturbed: tuple[Path, str]) -> None:
    folder, printed = undisturbed
    table = next(line for line in printed.splitlines() if line.startswith("| "))
    assert [c.strip() for c in table.strip("|").split("|")] == [
        *("rounds", "main task", "property", "B"),
        *("Proposed", "Prior", "Blind", "Oracle", "remarks"),
    ]
    assert len(records(folder)) == 16
    report = (folder / "out" / "small.md").read_text()
    assert printed.split("\n\n")[1] in report
    assert "individuals in each cell: 8" in printed
    assert "main-task accuracy" in printed


def test_a_second_run_measures_nothing(undisturbed: tuple[Path, str]) -> None:
    folder, printed = undisturbed
    before = {p.name: p.stat().st_mtime_ns for p in (folder / "out" / "records").iterdir()}
    again = run(folder)
    assert again.returncode == 0
    assert "16 of 16 cells have their record" in again.stderr
    assert again.stdout == printed
    after = {p.name: p.stat().st_mtime_ns for p in (folder / "out" / "records").iterdir()}
    assert before == after


def test_one_worker_gives_the_records_of_two(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    assert run(tmp_path, "--workers", "1", "--only", "batch_size=4").returncode == 0
    alone = records(tmp_path)
    assert len(alone) == 8
    assert alone.items() <= records(undisturbed[0]).items()


@pytest.mark.slow
def test_ten_kills_change_nothing(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "timing").mkdir()
    started = time.monotonic()
    assert run(tmp_path / "timing").returncode == 0
    whole = time.monotonic() - started
    moments = random.Random(0)
    for _ in range(10):
        process = subprocess.Popen(
            command(tmp_path),
            env=environment(tmp_path),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(moments.uniform(0, whole))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run(tmp_path).returncode == 0
    assert records(tmp_path) == records(undisturbed[0])
    leftovers = [p.name for p in (tmp_path / "out" / "records").iterdir() if p.suffix != ".json"]
    assert [name for name in leftovers if not name.startswith(".")] == []


def test_a_torn_record_is_measured_again(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    assert run(tmp_path, "--only", "attack=prior").returncode == 0
    whole = records(tmp_path)
    victim = tmp_path / "out" / "records" / next(iter(whole))
    victim.write_text(victim.read_text()[:100])
    result = run(tmp_path, "--only", "attack=prior")
    assert "3 of 4 cells have their record" in result.stderr
    assert records(tmp_path) == whole


FAULTY = """
from collections.abc import Sequence
from dataclasses import dataclass
import torch
from leakbench import Attack, AttackResult, Knowledge, register_attack

@register_attack("faulty")
@dataclass(frozen=True, kw_only=True)
class Faulty(Attack):
    title = "Faulty"
    reference = "none"
    fault: str = "nan"
    required_knowledge = Knowledge.AUXILIARY

    def infer(self, server, observations, progress):
        if self.fault == "crash":
            raise RuntimeError("the plugin's own mistake")
        size = 1 if self.fault == "nan" else 7
        value = torch.full((size,), torch.nan if self.fault == "nan" else 0.5)
        return [AttackResult(scores={p: value for p in server.properties}) for _ in observations]
"""


@pytest.mark.parametrize(
    ("fault", "code", "sentence"),
    [
        ("nan", 2, "attack 'faulty' returned NaN or infinity in scores['gender']"),
        ("shape", 2, "of shape (7,), expected (1,)"),
        ("crash", 1, "RuntimeError: the plugin's own mistake"),
    ],
)
def test_a_faulty_attack_costs_its_own_cells_only(
    tmp_path: Path, fault: str, code: int, sentence: str
) -> None:
    """Installed as an outside package, by an entry point; the other columns are kept."""
    faulty = f'[attack.prior]\n[attack.faulty]\nparameters = {{ fault = "{fault}" }}'
    only = ("--only", "attack=prior,faulty", "--only", "batch_size=1")
    result = subprocess.run(
        command(tmp_path, *only, suite_text=SUITE.replace("[attack.prior]", faulty)),
        env=outside_attack(tmp_path, "faulty", FAULTY),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == code, result.stderr
    assert sentence in result.stderr
    assert "most recent call last" not in result.stderr
    log = (tmp_path / "out" / "log.jsonl").read_text()
    assert ("most recent call last" in log) == (fault == "crash")
    statuses = {r["cell"]["attack"]: r["status"] for r in records(tmp_path).values()}
    assert statuses == {"prior": "done", "faulty": "failed"}
    assert "failed" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "properties=beard"], "unknown property 'beard'; this data set has: gender"),
        (["--set", "main_task=hut"], "unknown main-task attribute 'hut'"),
        (["--set", "individuals=9"], "9 individuals cannot be divided into batches of 4"),
        (["--set", "individuals=999", "--set", "batch_size=999"], "batch size 999"),
        (["--set", "image_size=33"], "image size 33 does not fit small_cnn"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    tmp_path: Path, arguments: list[str], sentence: str
) -> None:
    result = run(tmp_path, "--only", "attack=prior", *arguments)
    assert result.returncode == 2
    assert sentence in result.stderr
    assert "Traceback" not in result.stderr
