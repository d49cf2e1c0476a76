"""Benchmarks run where they are asked for: by `tox -e perf`, or at night."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent

QUICK = ("test_gpu.py", "test_report.py")
"""Tests of the pages, not measurements."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--benchmark-only"):
        return
    for item in items:
        if item.path.parent == HERE and item.path.name not in QUICK:
            item.add_marker(pytest.mark.nightly)
