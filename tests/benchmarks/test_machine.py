"""What the machine can do, what memory victims take, and how long leakbench takes to begin."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from engines import BACKBONES
from matrix import pytest_generate_tests  # noqa: F401
from torch.nn import functional


class Measurement(NamedTuple):
    """A kind of measurement with its arguments."""

    kind: str
    victims: int = 0
    batch_size: int = 0
    model: str = "small_cnn"
    size: int = 32


def measurements(full: bool) -> list[Measurement]:
    """Return what is measured."""
    sizes: list[Any] = [(1, 1), (64, 1), (256, 1), (1, 8), (32, 8), (1, 32), (8, 32), (1, 128)]
    sizes += [(8, *cell, 64) for cell in product((1, 8), BACKBONES)]
    return [
        *(Measurement(kind) for kind in ("matrix product", "convolution", "help", "resumed")),
        *(Measurement("memory", *size) for size in (sizes if full else sizes[:1])),
    ]


def fastest(call: Callable[[], Any], rounds: int = 20) -> float:
    """Return the seconds of the fastest of several calls."""
    times = []
    with torch.no_grad():
        for _ in range(rounds):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
    return min(times)


def matrix_product() -> dict[str, float]:
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    return {"flops a second": 2 * 1024**3 / fastest(lambda: a @ b)}


def convolution() -> dict[str, float]:
    images = torch.randn(32, 64, 32, 32).contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(64, 64, 3, 3).contiguous(memory_format=torch.channels_last)
    seconds = fastest(lambda: functional.conv2d(images, kernel, padding=1))
    return {"flops a second": 2 * 32 * 64 * 64 * 9 * 32 * 32 / seconds}


def seconds_of(*arguments: str) -> float:
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "leakbench", *arguments],
        check=True,
        capture_output=True,
        timeout=500,
    )
    return time.perf_counter() - began


def start_of_help() -> dict[str, float]:
    cold, *warm = [seconds_of("--help") for _ in range(6)]
    return {"first": cold, "again": statistics.median(warm)}


def start_of_a_resumed_suite(folder: Path) -> dict[str, float]:
    """Prior and oracle of the quick suite: a run of which every cell has its record."""
    arguments = ("run", "quick", "--only", "attack=prior", "--out", str(folder))
    fresh = seconds_of(*arguments)
    return {"first": fresh, "again": statistics.median([seconds_of(*arguments) for _ in range(3)])}


# Not getrusage: what it gives out a process inherits from the one that started it.
MEMORY = """
import re, sys
from pathlib import Path
import torch
from engines import batches, built, leakbench, work
torch.set_num_threads(1)
victims, batch_size, model, size = (f(a) for f, a in zip((int, int, str, int), sys.argv[1:]))
todo = work("IG", built(model, size), batches(victims, batch_size, size), 3, "off")
def most():
    return re.search("VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1]
before = most()
leakbench(todo)
print(before, most())
"""


def memory(*arguments: int | str) -> dict[str, float]:
    """MiB that a process holds before the attack, and at most."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
        text=True,
        timeout=500,
    )
    before, after = (int(number) / 2**10 for number in done.stdout.split())
    return {"before": before, "peak": after}


def test_machine(measurement: Measurement, benchmark: Any, tmp_path: Path) -> None:
    kind, *arguments = measurement
    if sys.platform != "linux" and kind == "memory":
        pytest.skip("there is no /proc/self/status")
    measure: dict[str, Callable[[], dict[str, float]]] = {
        "matrix product": matrix_product,
        "convolution": convolution,
        "help": start_of_help,
        "resumed": lambda: start_of_a_resumed_suite(tmp_path),
        "memory": lambda: memory(*arguments),
    }
    found = benchmark.pedantic(measure[kind], rounds=1)
    assert all(value > 0 for value in found.values())
    if kind == "memory":
        assert found["peak"] <= 3 * 2**10
    benchmark.extra_info |= {**measurement._asdict(), **found}
