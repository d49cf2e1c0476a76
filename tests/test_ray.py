"""A sweep on a Ray cluster gives the records of local processes, also if a node is lost."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from running import built, command, environment, events, records

pytestmark = pytest.mark.slow

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
pytest.importorskip("ray", reason="Ray is not installed (extra `ray`)")


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


def test_one_machine_is_a_cluster_of_its_own(undisturbed: tuple[Path, str], tmp_path: Path) -> None:
    process = started(tmp_path, "--executor", "ray", "--workers", "1")
    printed, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    assert "1 at once on a Ray cluster" in said
    assert records(tmp_path) == records(undisturbed[0])
    assert printed == undisturbed[1].replace(str(undisturbed[0]), str(tmp_path))
    assert set(built(tmp_path).values()) == {1}


def test_a_cluster_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    process = started(tmp_path, "--executor", "ray", "--address", "127.0.0.1:1")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2, said
    assert "no Ray cluster answers at 127.0.0.1:1" in said
    assert "Traceback" not in said


def test_an_address_needs_the_executor(tmp_path: Path) -> None:
    process = started(tmp_path, "--address", "127.0.0.1:1")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2
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
