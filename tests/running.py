"""Runs of a small suite in processes of their own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from forking import completed

SUITE = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 300 }
properties = ["gender", "glasses"]
main_task = "2-class"
model_parameters = { width = 4 }
property_model = "logistic"
clients = 2
rounds = 3
victim_share = 0.2
individuals = 8

[attack.feature]
parameters = { budget = 4 }

[attack.prior]

[attack.blind]

[attack.oracle]
grant = ["model", "auxiliary", "features"]

[[group]]
title = "Table 2"
layout = "table2"
sweep = { batch_size = [1, 4], rounds = [0, 3] }
"""


HALF = ("--only", "rounds=3")
"""The half of the suite that attacks a trained model."""


def command(folder: Path, *arguments: str, suite_text: str = SUITE) -> list[str]:
    """The command that runs a suite in a folder, with two workers."""
    suite = folder / "small.toml"
    suite.write_text(suite_text)
    return [
        *(sys.executable, "-m", "leakbench", "run", str(suite), "--out", str(folder / "out")),
        *("--device", "cpu", "--workers", "2", *arguments),
    ]


def environment(folder: Path) -> dict[str, str]:
    return {**os.environ, "LEAKBENCH_CACHE": str(folder / "cache")}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return completed(command(folder, *arguments), environment(folder))


def warm(folder: Path, whole: tuple[Path, str]) -> None:
    """Give a run in `folder` what a run of the whole suite has trained and prepared."""
    shutil.copytree(whole[0] / "cache", folder / "cache")


def records(folder: Path) -> dict[str, dict[str, Any]]:
    """File name → record, without the fields that may differ between two runs of a cell."""
    found = {}
    for path in (folder / "out" / "records").glob("*.json"):
        record = json.loads(path.read_text())
        assert record["key"] == path.stem
        del record["cost"], record["finished"]
        found[path.name] = record
    return found


def half_of(whole: tuple[Path, str]) -> dict[str, dict[str, Any]]:
    """The records of the half of the suite, from a run of the whole."""
    found = records(whole[0]).items()
    return {name: record for name, record in found if record["cell"]["rounds"] == 3}


def events(folder: Path, kind: str = "") -> list[dict[str, Any]]:
    """Every event in the log, or those of a kind."""
    lines = (folder / "out" / "log.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [event for event in found if kind in ("", event["event"])]


def built(folder: Path) -> Counter[str]:
    """Path in the cache → how often it was built."""
    return Counter(path for event in events(folder, "SharedDone") for path in event["built"])
