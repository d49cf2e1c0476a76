"""Faults in the middle of a sweep lose, duplicate and change nothing."""

from __future__ import annotations

import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

import pytest
import torch

from forking import Forked, completed
from leakbench.base.leftovers import remove_leftovers
from leakbench.base.registry import ATTACKS
from leakbench.sweep.executor import Report, Site, StepCompleted, StepStarted, WorkerDied
from leakbench.sweep.local import LocalExecutor
from leakbench.sweep.steps import Step, steps_of
from leakbench.threat.attack import Attack, AttackResult, Progress
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server
from records import suite_entries
from running import (
    HALF,
    SUITE,
    built,
    command,
    environment,
    events,
    half_of,
    records,
    warm,
)

pytestmark = pytest.mark.slow


@dataclass(frozen=True, kw_only=True)
class Perilous(Attack):
    """Endangers its worker."""

    name = "perilous"
    title = "Perilous"
    reference = "none"
    peril: str = "dies"
    required_knowledge = Knowledge.AUXILIARY

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        mark = Path(os.environ["LEAKBENCH_CACHE"]) / f"{self.peril}.mark"
        first = not mark.exists()
        mark.touch()
        if self.peril == "dies" or (self.peril == "dies once" and first):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.peril == "leaves":
            os._exit(0)
        if self.peril == "lacks memory once" and first:
            raise MemoryError("none left")
        if self.peril == "sleeps":
            time.sleep(600)
        half = torch.full((1,), 0.5)
        return [AttackResult(scores=dict.fromkeys(server.properties, half)) for _ in observations]


RunHere = Callable[..., tuple[int, str]]


@dataclass(frozen=True)
class Endangered:
    """A run of the control `prior` and of attacks that endanger their worker, one cell each."""

    folder: Path
    result: subprocess.CompletedProcess[str]

    @classmethod
    def of(cls, folder: Path, perils: Sequence[str], *arguments: str) -> Endangered:
        columns = ["[attack.prior]"] + [
            f'[attack.peril_{number}]\nattack = "perilous"\nparameters = {{ peril = "{peril}" }}'
            for number, peril in enumerate(perils)
        ]
        only = ("attack=prior,perilous", "batch_size=1", "rounds=0")
        cells = ("--workers", "1", *(word for each in only for word in ("--only", each)))
        suite = SUITE.replace("[attack.prior]", "\n".join(columns))
        ATTACKS.names()
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(ATTACKS._plugins, Perilous.name, Perilous)
            whole = command(folder, *cells, *arguments, suite_text=suite)
            result = completed(whole, environment(folder))
        return cls(folder, result)

    def statuses(self) -> dict[str, str]:
        """The status of each cell by its peril, "" for the control."""
        cells = records(self.folder).values()
        return {r["cell"]["attack_parameters"].get("peril", ""): r["status"] for r in cells}

    def attempts(self, peril: str) -> list[int]:
        """The numbers of the attempts at a cell after the first."""
        (key,) = (
            record["key"]
            for record in records(self.folder).values()
            if record["cell"]["attack_parameters"].get("peril") == peril
        )
        return [each["attempt"] for each in events(self.folder, "Again") if each["key"] == key]


@pytest.fixture(scope="module")
def endangered(tmp_path_factory: pytest.TempPathFactory) -> Endangered:
    """A run with three perils, whose workers are started again and again."""
    folder = tmp_path_factory.mktemp("endangered")
    return Endangered.of(folder, ["dies", "dies once", "lacks memory once"])


def test_a_cell_that_kills_its_workers_fails_alone(endangered: Endangered) -> None:
    assert endangered.result.returncode == 1, endangered.result.stderr
    assert {p for p, status in endangered.statuses().items() if status == "failed"} == {"dies"}
    last = endangered.result.stderr.splitlines()[-1]
    assert "its worker was killed by SIGKILL, perhaps for lack of memory (3 attempts)" in last
    assert endangered.attempts("dies") == [2, 3]
    assert len(events(endangered.folder, "Failed")) == 1


@pytest.mark.parametrize("peril", ["dies once", "lacks memory once"])
def test_a_transient_problem_costs_one_attempt(endangered: Endangered, peril: str) -> None:
    assert endangered.statuses()[peril] == "done"
    assert endangered.attempts(peril) == [2]


@pytest.mark.nightly
def test_a_cell_that_ends_its_workers_fails_alone(tmp_path: Path) -> None:
    run = Endangered.of(tmp_path, ["leaves"])
    assert run.result.returncode == 1, run.result.stderr
    assert run.statuses() == {"": "done", "leaves": "failed"}
    assert "its worker ended with exit code 0 (3 attempts)" in run.result.stderr.splitlines()[-1]
    assert run.attempts("leaves") == [2, 3]


@pytest.mark.nightly
def test_without_retries_the_first_death_fails_the_cell(tmp_path: Path) -> None:
    run = Endangered.of(tmp_path, ["dies once"], "--retries", "0")
    assert run.result.returncode == 1
    assert run.statuses() == {"": "done", "dies once": "failed"}
    assert events(tmp_path, "Again") == []


def test_a_cell_that_takes_too_long_is_ended(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    warm(tmp_path, undisturbed)
    run = Endangered.of(tmp_path, ["sleeps"], "--time-limit", "0.1")
    assert run.result.returncode == 1, run.result.stderr
    said = run.result.stderr
    assert "it took longer than 0.1 min; give it less to do, or raise --time-limit" in said
    assert run.statuses() == {"": "done", "sleeps": "failed"}
    assert events(tmp_path, "Again") == []


@pytest.mark.parametrize("limit", ["0", "-1", "nan"])
def test_a_time_limit_must_be_above_zero(run_here: RunHere, limit: str) -> None:
    code, said = run_here("--time-limit", limit)
    assert code == 2
    assert "take minutes above 0" in said


def workers_of(process: int) -> list[int]:
    """The worker processes of a run."""
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        for child in task.read_text().split():
            line = Path(f"/proc/{child}/cmdline").read_bytes()
            if b"spawn_main" in line:
                found.append(int(child))
    return found


def shared_step() -> Step:
    """Shared work that takes seconds."""
    settings = ("rounds=0", "property_model=logistic", "dataset.individuals=300")
    return steps_of(suite_entries("quick", *settings))[0]


@pytest.fixture
def executor() -> Iterator[LocalExecutor]:
    made = LocalExecutor(Site(None, "cpu"), workers=1)
    yield made
    made.close()


def done(executor: LocalExecutor, step: Step) -> list[Report]:
    """What is reported of a step until it is at its end."""
    executor.submit(step)
    found: list[Report] = []
    while not any(isinstance(each, StepCompleted | WorkerDied) for each in found):
        found += executor.reports()
    return found


def test_a_worker_that_dies_idle_costs_nothing(
    forked_workers: None, executor: LocalExecutor
) -> None:
    step = shared_step()
    first = done(executor, step)[-1]
    assert isinstance(first, StepCompleted) and first.problem is None
    (idle,) = multiprocessing.active_children()
    assert idle.pid is not None
    os.kill(idle.pid, signal.SIGKILL)
    idle.join()
    again = done(executor, step)[-1]
    assert isinstance(again, StepCompleted) and again.problem is None


def test_a_worker_that_dies_while_it_starts_costs_an_attempt(executor: LocalExecutor) -> None:
    step = shared_step()
    executor.submit(step)
    (starting,) = multiprocessing.active_children()
    assert starting.pid is not None
    os.kill(starting.pid, signal.SIGKILL)
    found: list[Report] = []
    while not any(isinstance(each, WorkerDied) for each in found):
        found += executor.reports()
    assert [type(each) for each in found] == [StepStarted, WorkerDied]
    again = done(executor, step)[-1]
    assert isinstance(again, StepCompleted) and again.problem is None


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_first_worker_too_leaves_signals_to_its_parent(executor: LocalExecutor) -> None:
    """The first one starts Python's resource tracker, which lifts the mask of signals."""
    resource_tracker._resource_tracker._stop()  # type: ignore[attr-defined]
    executor.submit(shared_step())
    (worker,) = multiprocessing.active_children()
    status = Path(f"/proc/{worker.pid}/status").read_text()
    blocked = int(re.search(r"SigBlk:\s*(\w+)", status)[1], 16)  # type: ignore[index]
    for number in (signal.SIGINT, signal.SIGTERM):
        assert blocked >> (number - 1) & 1, number


def test_old_files_of_killed_processes_are_deleted(tmp_path: Path) -> None:
    """Those of a running process, other files, and what is behind a link, stay."""
    (tmp_path / "images").mkdir()
    (tmp_path / "compiled").mkdir()
    elsewhere = tmp_path / "images" / "kept.npy"
    left = [
        tmp_path / f".{'0' * 24}.json.ab_d1234",
        tmp_path / "images" / ".celeba.npy.zzzzzzzz",
        tmp_path / "images" / ".celeba.npy.crc32.00000000",
    ]
    kept = [
        tmp_path / ".notes.json",
        tmp_path / "a.json.abcd1234",
        tmp_path / ".x.json.ABCD1234",
        tmp_path / ".mine.txt.abcd1234",
        tmp_path / "compiled" / ".x.json.abcd1234",
        elsewhere,
    ]
    for path in (*left, *kept):
        path.write_text("")
        os.utime(path, (0, 0))
    running = tmp_path / ".running.npy.abcd1234"
    running.write_text("")
    link = tmp_path / ".link.npy.abcd1234"
    link.symlink_to(elsewhere)
    assert sorted(remove_leftovers(tmp_path, depth=1)) == sorted(left)
    assert all(path.exists() for path in (*kept, running, link))
    assert remove_leftovers(tmp_path / "nowhere") == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("kills", "part", "longest"),
    [
        pytest.param(2, HALF, 2.0, marks=pytest.mark.nightly),
        pytest.param(8, (), 5.0, marks=pytest.mark.nightly),
    ],
)
def test_workers_killed_at_random_change_nothing(
    undisturbed: tuple[Path, str],
    tmp_path: Path,
    kills: int,
    part: tuple[str, ...],
    longest: float,
) -> None:
    """Seconds, a fifth of `longest` at least, lie between two kills."""
    chance = random.Random(1)
    process = subprocess.Popen(
        command(tmp_path, "--retries", "50", *part),
        env=environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    killed = 0
    while process.poll() is None and killed < kills:
        time.sleep(chance.uniform(longest / 5, longest))
        if workers := workers_of(process.pid):
            os.kill(chance.choice(workers), signal.SIGKILL)
            killed += 1
    printed, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert killed >= 2
    assert records(tmp_path) == (half_of(undisturbed) if part else records(undisturbed[0]))
    if not part:
        assert printed == undisturbed[1].replace(str(undisturbed[0]), str(tmp_path))
    finished = Counter(event["key"] for event in events(tmp_path, "CellDone"))
    assert set(finished.values()) == {1}
    assert set(built(tmp_path).values()) == {1}


def interrupted(tmp_path: Path, number: signal.Signals, code: int) -> None:
    """Start a run, signal all of its processes after its first record, and check what it leaves.

    So a terminal does, and a cluster that ends a job.
    """
    process = Forked(command(tmp_path, *HALF), environment(tmp_path), own_group=True)
    folder = tmp_path / "out" / "records"
    while process.poll() is None and not list(folder.glob("*.json")):
        time.sleep(0.05)
    os.killpg(process.pid, number)
    _, said = process.communicate(timeout=60)
    assert process.poll() == code, said
    assert "Traceback" not in said
    assert not events(tmp_path, "Retrying")
    assert "run the same command again to go on" in said.splitlines()[-1]
    measured, left = (events(tmp_path, "Closed")[-1][each] for each in ("measured", "left"))
    assert measured == len(records(tmp_path))
    assert measured + left == 8
    assert [path.name for path in folder.iterdir() if path.suffix != ".json"] == [".claims"]


@pytest.mark.nightly
def test_a_terminated_run_says_how_to_go_on(tmp_path: Path) -> None:
    interrupted(tmp_path, signal.SIGTERM, 143)


def test_an_interrupted_run_says_how_to_go_on_and_does(
    undisturbed: tuple[Path, str], run_here: RunHere, tmp_path: Path
) -> None:
    warm(tmp_path, undisturbed)
    interrupted(tmp_path, signal.SIGINT, 130)
    assert run_here(*HALF)[0] == 0
    assert records(tmp_path) == half_of(undisturbed)
    assert max(Counter(e["key"] for e in events(tmp_path, "CellDone")).values()) == 1


def test_two_runs_at_once_share_the_work(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    one = command(tmp_path, "--workers", "1", *HALF)
    both = [Forked(one, environment(tmp_path)) for _ in range(2)]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.poll() for process in both] == [0, 0], said
    assert records(tmp_path) == half_of(undisturbed)
    done = events(tmp_path, "CellDone")
    assert Counter(Counter(event["key"] for event in done).values()) == {1: 8}
    assert len({event["run"] for event in done}) == 2
    assert set(built(tmp_path).values()) == {1}
    (table, other) = (printed for printed, _ in said)
    assert "Proposed" in table
    assert table == other


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB; skips where none may be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"no file system of 1 MB: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(folder: Path, left: int) -> Path:
    """Fill a file system but for some bytes."""
    room = os.statvfs(folder)
    ballast = folder / "ballast"
    ballast.write_bytes(b"\0" * (room.f_bavail * room.f_frsize - left))
    return ballast


def test_a_full_disk_ends_the_run_with_a_folder_that_is_valid(
    undisturbed: tuple[Path, str], run_here: RunHere, tmp_path: Path, small_disk: Path
) -> None:
    warm(tmp_path, undisturbed)
    out = tmp_path / "out"
    out.symlink_to(small_disk)
    ballast = fill(small_disk, left=24 * 1024)
    code, said = run_here(*HALF)
    assert code == 2, said
    assert "No space left on device; all finished cells are kept" in said.splitlines()[-1]
    assert "Traceback" not in said
    kept = records(tmp_path)
    assert 0 < len(kept) < 8
    assert kept.items() <= half_of(undisturbed).items()
    ballast.unlink()
    assert run_here(*HALF)[0] == 0
    assert records(tmp_path) == half_of(undisturbed)


def test_a_full_cache_ends_the_run(run_here: RunHere, tmp_path: Path, small_disk: Path) -> None:
    (tmp_path / "cache").symlink_to(small_disk)
    fill(small_disk, left=200 * 1024)
    code, said = run_here()
    assert code == 2, said
    last = said.splitlines()[-1]
    assert "cannot write" in last
    assert "the disk may be full; all finished cells are kept" in last
    assert "Traceback" not in said
