"""A run loses nothing, duplicates nothing, and resumes where it was."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from forking import Forked, completed
from leakbench.base.registry import ATTACKS
from leakbench.datasets.synthetic import Synthetic
from leakbench.threat.attack import Attack, AttackResult, Progress
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server
from running import HALF, SUITE, command, environment, half_of, records, warm

Run = Callable[..., tuple[int, str, str]]
RunHere = Callable[..., tuple[int, str]]


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


def test_a_second_run_measures_nothing(
    undisturbed: tuple[Path, str],
    run: Run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder, printed = undisturbed
    monkeypatch.setenv("LEAKBENCH_CACHE", environment(folder)["LEAKBENCH_CACHE"])
    before = {p.name: p.stat().st_mtime_ns for p in (folder / "out" / "records").iterdir()}
    code, out, said = run(*command(folder)[3:])
    assert code == 0
    assert "16 of 16 cells have their record" in said
    assert out == printed
    after = {p.name: p.stat().st_mtime_ns for p in (folder / "out" / "records").iterdir()}
    assert before == after


def test_one_worker_gives_the_records_of_two(
    undisturbed: tuple[Path, str], run_here: RunHere, tmp_path: Path
) -> None:
    assert run_here("--only", "batch_size=4")[0] == 0
    alone = records(tmp_path)
    assert len(alone) == 8
    assert alone.items() <= records(undisturbed[0]).items()


@pytest.mark.slow
def test_a_run_that_a_user_starts_gives_the_same_records(
    undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    """Its processes are new ones of Python, which share nothing with this one."""
    warm(tmp_path, undisturbed)
    part = ("--workers", "1", "--only", "attack=feature", "--only", "rounds=3")
    result = subprocess.run(
        command(tmp_path, *part),
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    found = records(tmp_path)
    assert len(found) == 2
    assert found.items() <= records(undisturbed[0]).items()


def killed_in_the_middle(folder: Path, chance: random.Random, *arguments: str) -> None:
    """Start a run, and kill it some events and some time after its first event."""
    log = folder / "out" / "log.jsonl"

    def logged() -> int:
        return log.read_text().count("\n") if log.exists() else 0

    last = logged() + chance.randint(1, 16)
    process = Forked(command(folder, *arguments), environment(folder))
    while process.poll() is None and logged() < last:
        time.sleep(0.02)
    time.sleep(chance.uniform(0, 0.3))
    process.kill()
    process.wait(60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kills", "part"), [(2, HALF), pytest.param(10, (), marks=pytest.mark.nightly)]
)
def test_kills_change_nothing(
    undisturbed: tuple[Path, str],
    run_here: RunHere,
    tmp_path: Path,
    kills: int,
    part: tuple[str, ...],
) -> None:
    chance = random.Random(0)
    for _ in range(kills):
        killed_in_the_middle(tmp_path, chance, *part)
    assert run_here(*part)[0] == 0
    assert records(tmp_path) == (half_of(undisturbed) if part else records(undisturbed[0]))
    leftovers = [p.name for p in (tmp_path / "out" / "records").iterdir() if p.suffix != ".json"]
    assert [name for name in leftovers if not name.startswith(".")] == []


@dataclass(frozen=True, kw_only=True)
class Faulty(Attack):
    """Crashes, or gives a bad answer."""

    name = "faulty"
    title = "Faulty"
    reference = "none"
    fault: str = "nan"
    required_knowledge = Knowledge.AUXILIARY

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        if self.fault == "crash":
            raise RuntimeError("the plugin's own mistake")
        size = 1 if self.fault == "nan" else 7
        value = torch.full((size,), torch.nan if self.fault == "nan" else 0.5)
        return [AttackResult(scores=dict.fromkeys(server.properties, value)) for _ in observations]


@pytest.mark.parametrize(
    ("sentences", "code"),
    [
        (
            {
                "nan": "attack 'faulty' returned NaN or infinity in scores['gender']",
                "shape": "of shape (7,), expected (1,)",
            },
            2,
        ),
        ({"crash": "RuntimeError: the plugin's own mistake"}, 1),
    ],
    ids=["bad answers", "a crash"],
)
def test_a_faulty_attack_costs_its_own_cells_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sentences: dict[str, str], code: int
) -> None:
    """The other columns are kept."""
    ATTACKS.names()
    monkeypatch.setitem(ATTACKS._plugins, Faulty.name, Faulty)
    columns = "[attack.prior]\n" + "".join(
        f'[attack.{fault}]\nattack = "faulty"\nparameters = {{ fault = "{fault}" }}\n'
        for fault in sentences
    )
    only = ("--only", "batch_size=1", "--only", "rounds=0", "--only", "attack=prior,faulty")
    suite = SUITE.replace("[attack.prior]", columns)
    whole = command(tmp_path, "--workers", "1", *only, suite_text=suite)
    result = completed(whole, environment(tmp_path))
    assert result.returncode == code, result.stderr
    assert all(sentence in result.stderr for sentence in sentences.values()), result.stderr
    assert "most recent call last" not in result.stderr
    log = (tmp_path / "out" / "log.jsonl").read_text()
    assert ("most recent call last" in log) == ("crash" in sentences)
    statuses = {
        (r["cell"]["attack"], r["cell"]["attack_parameters"].get("fault")): r["status"]
        for r in records(tmp_path).values()
    }
    assert statuses == {("prior", None): "done"} | {("faulty", f): "failed" for f in sentences}
    assert "failed" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--set", "properties=beard"], "unknown property 'beard'; this data set has: gender"),
        (["--set", "individuals=9"], "9 individuals cannot be divided into batches of 4"),
    ],
)
def test_bad_input_ends_in_one_sentence(
    run_here: RunHere, arguments: list[str], sentence: str
) -> None:
    code, said = run_here("--only", "attack=prior", *arguments)
    assert code == 2
    assert sentence in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("properties=gendre", "unknown property 'gendre'; this data set has: gender"),
        ("properties=gendre", "; did you mean gender?"),
        ("main_task=hatt+smile", "unknown main-task attribute 'hatt'"),
        ("attack.bugdet=3", "; did you mean budget?"),
        ("model.widht=3", "; did you mean width?"),
        ("individuals=1000000000000000", "individuals: input should be less than or equal to"),
        ("trainings=1000000000000000", "trainings: input should be less than or equal to"),
    ],
)
@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_misspelt_name_or_absurd_number_is_refused_before_data_are_loaded(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str, setting: str, sentence: str
) -> None:
    def load(*_: object) -> None:
        pytest.fail("data are loaded")

    monkeypatch.setattr(Synthetic, "load", load)
    code, _, said = run(command, "quick", "--set", setting, "--out", "out")
    assert code == 2
    assert said.count(sentence) == 1
    assert len(said.splitlines()) == 1, said


def test_names_are_those_that_a_data_set_has(tmp_path: Path) -> None:
    for subject in ("faces", "vehicles", "birds"):
        dataset = Synthetic(subject=subject, individuals=64)
        assert dataset.attribute_names(None) == (*dataset.load(None, 16).attributes,)


def test_each_setup_that_cannot_be_had_is_one_sentence(run: Run, tmp_path: Path) -> None:
    """In one run, since most of the time goes to the start of a worker."""
    faults = {
        "batch size 999": "individuals = 999, batch_size = 999",
        "image size 33 does not fit small_cnn": "image_size = 33, batch_size = 4",
    }
    groups = [
        f'[[group]]\ntitle = "{number}"\nlayout = "table2"\ncell = {{ {cell} }}\n'
        for number, cell in enumerate(faults.values())
    ]
    suite = SUITE.partition("[[group]]")[0] + "".join(groups)
    options = ("--workers", "1", "--only", "attack=prior")
    code, _, said = run(*command(tmp_path, *options, suite_text=suite)[3:])
    assert code == 2
    assert all(sentence in said for sentence in faults), said
    assert "Traceback" not in said
