"""Kills across drivers, workers and whole groups lose, duplicate and change nothing."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from forking import Forked
from running import HALF, command, environment, events, half_of, records, warm

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc"),
]

LONGEST = 1.0
"""Seconds to wait before a kill, at most; a run of what is killed here takes a few."""


def children_of(process: int) -> list[int]:
    """Return the processes that a run has started, its workers."""
    tasks = Path(f"/proc/{process}/task").glob("*/children")
    with suppress(OSError):
        return [int(child) for task in tasks for child in task.read_text().split()]
    return []


def kill_one(process: Forked, chance: random.Random) -> str:
    """Wait some time, and kill a part of a run; return which, empty where it had ended."""
    part = chance.choice(["driver", "worker", "group"])
    # Half of the drivers and groups too, of which others are killed while they start.
    with_workers = part == "worker" or chance.random() < 0.5
    while with_workers and process.poll() is None and not children_of(process.pid):
        time.sleep(0.01)
    time.sleep(chance.uniform(0, LONGEST))
    workers = children_of(process.pid)
    if process.poll() is not None or (part == "worker" and not workers):
        return ""
    with suppress(ProcessLookupError, PermissionError):
        if part == "worker":
            os.kill(chance.choice(workers), signal.SIGKILL)
        elif part == "group":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        return part
    return ""


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kills", [30, pytest.param(200, marks=pytest.mark.nightly)])
def test_kills_change_nothing(kills: int, undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    """In one folder after the other, each killed until a run of it comes to its end."""
    chance, killed, folders = random.Random(2), Counter[str](), 0
    while killed.total() < kills:
        folders += 1
        folder = tmp_path / str(folders)
        folder.mkdir()
        warm(folder, undisturbed)
        code = None
        while code != 0:
            process = Forked(
                command(folder, "--retries", "50", *HALF), environment(folder), own_group=True
            )
            # The last folder too is brought to its end.
            while process.poll() is None and killed.total() < kills:
                if part := kill_one(process, chance):
                    killed[part] += 1
                    if part != "worker":
                        break
            code = process.wait(300)
            assert code in (0, -signal.SIGKILL), process.communicate(0)
        assert records(folder) == half_of(undisturbed)
        ended = Counter(event["key"] for event in events(folder, "CellDone"))
        assert set(ended) <= {name.removesuffix(".json") for name in records(folder)}
        left = [path.name for path in (folder / "out" / "records").iterdir()]
        assert [name for name in left if not name.endswith(".json") and name[0] != "."] == []
    assert killed.total() == kills
    assert min(killed[part] for part in ("driver", "worker", "group")) >= kills // 10, killed
