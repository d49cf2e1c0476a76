"""Folders of thousands of valid records, made fast: each record's content makes its key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from leakbench.records.record import Record
from leakbench.records.store import Store
from publishing import done
from records import suite_entries

SUITE = """
title = "Many"

[cell]
image_size = 32
dataset = "synthetic"
properties = ["gender", "smile"]
main_task = "hat"
individuals = 64

[attack.feature]
[attack.ig]
[attack.blind]
[attack.labels]

[[group]]
title = "By seed"
layout = "defense"

[group.sweep]
batch_size = [1]
defense = [{{ name = "none" }}, {{ name = "gaussian", sigma = 0.01 }}]
seed = [{seeds}]
"""

OF_A_SEED = 8
"""Cells of one seed: four attacks, two defenses."""


def write_suite(folder: Path, seeds: int) -> Path:
    """Write a suite of `OF_A_SEED` cells for each seed; return its file."""
    path = folder / "many.toml"
    path.write_text(SUITE.format(seeds=", ".join(map(str, range(seeds)))), encoding="utf-8")
    return path


def many(folder: Path, seeds: int) -> Iterator[Record]:
    """Yield a record of each cell of that suite for these seeds."""
    first = suite_entries(str(write_suite(folder, 1)))
    for seed in range(seeds):
        for entry in first:
            record = done(entry)
            cell = record.cell.model_copy(update={"seed": seed})
            yield record.model_copy(update={"cell": cell, "key": cell.key(record.attack_version)})


def write_many(folder: Path, seeds: int) -> tuple[Path, Path]:
    """Write the suite and its records; return the run's folder and the suite's file.

    Files are written as they are, since syncing each to the disk takes longer than all else.
    """
    out = folder / "run"
    store = Store(out / "records")
    store.folder.mkdir(parents=True)
    for record in many(folder, seeds):
        store.path(record.key).write_text(json.dumps(record.model_dump(mode="json")))
    return out, write_suite(folder, seeds)
