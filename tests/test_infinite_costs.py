"""A record whose cost is no number is left out and named, since no table can print it."""

from __future__ import annotations

import json
from pathlib import Path

from leakbench.records.folder import read_cells, read_records
from many_records import write_many
from records import suite_entries

WRONG = {"seconds": "NaN", "steps": "Infinity", "peak_memory_mib": "-Infinity", "restarts": "NaN"}


def test_reports_leave_it_out(tmp_path: Path) -> None:
    out, suite = write_many(tmp_path, 1)
    paths = sorted((out / "records").glob("*.json"))[: len(WRONG)]
    for path, (field, number) in zip(paths, WRONG.items(), strict=True):
        content = json.loads(path.read_text())
        content["cost"][field] = float(number)
        path.write_text(json.dumps(content))
        assert f": {number}" in path.read_text()
    expected = dict.fromkeys((path.name for path in paths), "its cost is not finite")
    assert read_records(out).left_out == expected
    assert read_cells(out, suite_entries(str(suite)))[1] == expected
