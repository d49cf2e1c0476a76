"""A sweep on a Ray cluster gives the records of local processes, also if a node is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from leakbench.base.errors import UsageError
from running import built, command, environment, events, records

pytestmark = pytest.mark.slow

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")


RunHere = Callable[..., tuple[int, str]]


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Two nodes of one core on this machine; the first has the driver."""
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20},
    )
    made.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    yield made
    made.shutdown()


def started(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    whole = command(folder)
    whole[whole.index("--workers") :] = arguments
    return subprocess.Popen(
        whole,
        env=environment(folder),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


OWN_CLUSTER = """
import json, os, sys
from leakbench.sweep.ray_cluster import connect
connect(None, 1)
import ray
assert ray.get(ray.remote(lambda: 3).remote()) == 3
told = {name: os.environ.get(name) for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")}
print(json.dumps({"address": ray.get_runtime_context().gcs_address, **told}), flush=True)
sys.stdin.read()
"""

JOIN = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
print("RAN", ray.get(ray.remote(lambda: 3).remote()))
"""


def listening(process: int) -> set[str]:
    """The addresses on which a process and its descendants listen, as the kernel writes them."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    group, before = {process}, 0
    while len(group) > before:
        before = len(group)
        group |= {child for child, parent in parents.items() if parent in group}
    sockets = set()
    for link in (link for each in group for link in Path(f"/proc/{each}/fd").glob("*")):
        with suppress(OSError):
            sockets.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [
        line.split()
        for table in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return {row[1].rpartition(":")[0] for row in rows if row[3] == "0A" and row[9] in sockets}


LOOPBACK = {
    "0100007F",
    "00000000000000000000000001000000",
    "0000000000000000FFFF00000100007F",
}
"""127.0.0.1, ::1, and the former written as the latter."""


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's table of sockets")
def test_a_cluster_of_its_own_is_closed_to_others(tmp_path: Path) -> None:
    outside = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
    driver = subprocess.Popen(
        [sys.executable, "-c", OWN_CLUSTER],
        env=outside | {"LEAKBENCH_CACHE": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdout is not None
    told = json.loads(driver.stdout.readline())
    try:
        assert len(told["RAY_AUTH_TOKEN"]) == 64
        found = listening(driver.pid)
        assert found
        assert found <= LOOPBACK

        def joining(**variables: str) -> subprocess.Popen[str]:
            local = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
            return subprocess.Popen(
                [sys.executable, "-c", JOIN, told["address"]],
                env=outside | local | variables,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )

        # The same process is let in with the token, so that it is the token that keeps it out.
        token = {"RAY_AUTH_MODE": "token"}
        right = joining(**token, RAY_AUTH_TOKEN=told["RAY_AUTH_TOKEN"])
        wrong = [joining(), joining(**token, RAY_AUTH_TOKEN="x" * 64)]
        printed, said = right.communicate(timeout=200)
        assert "RAN 3" in printed, said
        for without in wrong:
            printed, said = without.communicate(timeout=200)
            assert without.returncode != 0
            assert "RAN" not in printed
            assert "uthenticat" in said
    finally:
        driver.communicate()


def test_a_ray_without_tokens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    from leakbench.sweep.ray_cluster import connect

    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        # Restored after the test.
        monkeypatch.setenv(name, "")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "__version__", "2.51.1")
    with pytest.raises(UsageError, match=r"Ray 2\.51\.1 cannot protect.*install ray>=2\.52"):
        connect(None, 1)


def test_a_lost_node_changes_nothing(
    undisturbed: tuple[Path, str], tmp_path: Path, cluster: Any
) -> None:
    process = started(tmp_path, "--executor", "ray", "--address", cluster.address)
    folder = tmp_path / "out" / "records"
    nodes: set[str] = set()
    while process.poll() is None and (len(nodes) < 2 or not list(folder.glob("*.json"))):
        time.sleep(0.1)
        if (tmp_path / "out" / "log.jsonl").exists():
            nodes = {event["worker"].split("/")[0] for event in events(tmp_path, "Started")}
    (second,) = (node for node in cluster.worker_nodes)
    cluster.remove_node(second, allow_graceful=False)
    before = len(records(tmp_path))
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert len(nodes) == 2
    assert 0 < before < 16
    assert records(tmp_path) == records(undisturbed[0])
    assert printed == undisturbed[1].replace(str(undisturbed[0]), str(tmp_path))
    finished = Counter(event["key"] for event in events(tmp_path, "CellDone"))
    assert Counter(finished.values()) == {1: 16}


@pytest.mark.nightly
def test_one_machine_is_a_cluster_of_its_own(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    process = started(tmp_path, "--executor", "ray", "--workers", "1")
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "1 at once on a Ray cluster" in said
    assert records(tmp_path) == records(undisturbed[0])
    assert printed == undisturbed[1].replace(str(undisturbed[0]), str(tmp_path))
    assert set(built(tmp_path).values()) == {1}


def test_a_cluster_that_is_not_there_is_one_sentence(run_here: RunHere) -> None:
    code, said = run_here("--executor", "ray", "--address", "127.0.0.1:1")
    assert code == 2, said
    assert "no Ray cluster answers at 127.0.0.1:1" in said
    assert "Traceback" not in said


def test_an_address_needs_the_executor(run_here: RunHere) -> None:
    code, said = run_here("--address", "127.0.0.1:1")
    assert code == 2
    assert "add --executor ray" in said


def test_what_is_prepared_travels_with_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker whose cache is empty finds what another has built, and builds nothing."""
    from leakbench.base.cache import cached_tensors, noting, packed, unpack

    monkeypatch.setenv("LEAKBENCH_CACHE", str(tmp_path / "one"))
    with noting() as first:
        cached_tensors("models/a", lambda: {"x": torch.ones(2)})
    contents = packed(first.tensors)
    monkeypatch.setenv("LEAKBENCH_CACHE", str(tmp_path / "two"))
    unpack(contents)
    with noting() as second:
        assert cached_tensors("models/a", dict)["x"].tolist() == [1, 1]
    assert (first.built, second.built) == (["models/a"], [])
