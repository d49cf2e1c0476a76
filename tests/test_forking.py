"""Copies of the tests' process are safe only of a process without threads that hold locks."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

TASKS = Path("/proc/self/task")


@pytest.mark.skipif(not TASKS.is_dir(), reason="this system does not list threads of a process")
def test_arrow_has_no_thread_in_a_process_that_is_copied() -> None:
    """Also after texts that Arrow holds were read and computed with."""
    assert pd.Series(["a", "b"]).str.upper().tolist() == ["A", "B"]
    names = {(task / "comm").read_text().strip() for task in TASKS.iterdir()}
    assert not {name for name in names if "jemalloc" in name or "arrow" in name.lower()}
