"""Facts about `leakbench list` without a kind."""

from __future__ import annotations

from collections.abc import Callable

Run = Callable[..., tuple[int, str, str]]


def test_all_names_are_listed_once_by_kind(run: Run) -> None:
    code, out, _ = run("list")
    assert code == 0
    rows = {line.split()[0]: line.split()[1:] for line in out.splitlines()[2:8]}
    assert {"feature", "mask_demixing"} <= set(rows["attacks"])
    assert {"prior", "oracle"} <= set(rows["baselines"])
    assert not set(rows["attacks"]) & set(rows["baselines"])
    assert {"quick", "table2"} <= set(rows["suites"])
    assert "leakbench show NAME" in out
