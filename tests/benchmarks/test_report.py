"""The page of what was measured."""

from __future__ import annotations

import json
from pathlib import Path

from report import main, ratio


def test_ratios_are_taken_round_by_round() -> None:
    assert ratio([10.0, 30.0, 20.0], [1.0, 2.0, 4.0]) == "10.0 (5.0–15.0)"
    assert ratio(None, [1.0]) == "—"


def test_the_page_shows_every_kind_of_measurement_and_what_was_not_reached(tmp_path: Path) -> None:
    cell = {"kind": "step", "attack": "IG", "model": "lenet", "size": 32, "batch_size": 1}
    quality = {"kind": "quality", "batch_size": 1, "attack": "IG"}
    rows = [
        *(
            {**cell, "number": n, "engine": "leakbench", "step": s, "flops": 5e6}
            for n, s in enumerate((1.0, 2.0, 1.0))
        ),
        *(
            {**cell, "number": n, "engine": "plain loop", "step": 4.0, "flops": 5e6}
            for n in range(3)
        ),
        {"kind": "convolution", "flops a second": 1e11},
        {"kind": "matrix product", "flops a second": 5e10},
        {
            **quality,
            "engine": "leakbench",
            "qualities": {"PSNR": {"steps": 50, "seconds": 0.5, "found": 21.0, "reached": True}},
        },
        {
            **quality,
            "engine": "breaching",
            "qualities": {"PSNR": {"steps": 1600, "seconds": 8.0, "found": 12.0, "reached": False}},
        },
        {
            "kind": "memory",
            "victims": 3,
            "batch_size": 2,
            "before": 400.0,
            "peak": 500.0,
            "model": "resnet18",
            "size": 64,
        },
        {"kind": "help", "first": 0.3, "again": 0.1},
        {"kind": "workers", "cells": 16, "one": [100.0, 90.0], "two": [50.0, 50.0]},
    ]
    file = {
        "machine_info": {"cpu": {"brand_raw": "A Processor"}, "python_version": "3.11.7"},
        "benchmarks": [{"extra_info": row} for row in rows],
    }
    source, target = tmp_path / "perf.json", tmp_path / "performance.md"
    source.write_text(json.dumps(file))
    (tmp_path / "performance.reading.md").write_text("What it means.\n")
    main([source], target)
    page = " ".join(target.read_text().split())
    assert "What it means." in page
    assert "on A Processor, Python 3.11.7" in page
    # 5 MFLOP in 1 ms are 5 of 100 GFLOP/s.
    assert "| IG | 1 | 1.00 | 4.00 | — | 4.0 (2.0–4.0) | — | 5 % |" in page
    assert "| PSNR | 1 | leakbench | IG | 50 | 21 | 0.50 | > 16.0 |" in page
    assert "| PSNR | 1 | breaching | IG | > 1600 | 12 | > 8.00 | — |" in page
    assert "| resnet18, 64 px | 3 | 2 | 400 | 500 |" in page
    assert "| `leakbench --help` | 0.30 | 0.10 |" in page
    assert "| 16 | 95 | 50 | 1.9 (1.8–2.0) |" in page
