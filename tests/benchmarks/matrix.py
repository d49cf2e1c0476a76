"""The full matrix is measured with --benchmark-only (`tox -e perf`), else a small part of it."""

from __future__ import annotations

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a module that imports this say what it measures, by `measurements(full)`."""
    if "measurement" in metafunc.fixturenames:
        full = bool(metafunc.config.getoption("benchmark_only"))
        found = metafunc.module.measurements(full)
        metafunc.parametrize("measurement", found, ids=str)
