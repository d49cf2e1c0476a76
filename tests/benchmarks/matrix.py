"""The full matrix is measured with --benchmark-only (`tox -e perf`), else a small part of it."""

from __future__ import annotations

import pytest


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Let a module that imports this say what it measures, by `measurements(full)`.

    Its tests may also ask whether it is `full`, and for leakbench's way of `compiling`.
    """
    full = bool(metafunc.config.getoption("benchmark_only"))
    if "measurement" in metafunc.fixturenames:
        found = metafunc.module.measurements(full)
        metafunc.parametrize("measurement", found, ids=lambda cell: "-".join(map(str, cell)))
    if "full" in metafunc.fixturenames:
        metafunc.parametrize("full", [full], ids=["full" if full else "part"])
    if "compiling" in metafunc.fixturenames:
        metafunc.parametrize("compiling", ["on" if full else "off"], ids=lambda way: way)
