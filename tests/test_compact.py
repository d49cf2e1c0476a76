"""Records that are kept by the thousands take little memory, and hold what they held."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from leakbench.base.markdown import harmless
from leakbench.experiments import cell as cells
from leakbench.experiments.cell import Cell
from leakbench.metrics.catalogue import spec_of
from leakbench.metrics.spec import MOST_KEYS, ROOT, leaves
from leakbench.records import compact as module
from leakbench.records.compact import SharedParts, share_cell
from leakbench.records.data_frame import _Rows
from leakbench.records.folder import read_cells, read_records
from leakbench.records.record import Record
from leakbench.records.store import Store
from leakbench.reports import suite_page
from leakbench.reports.suite_report import SuiteReport
from many_records import OF_A_SEED, write_many, write_suite
from records import suite_entries
from test_metric_catalogue import whole_metrics


@pytest.fixture
def many(tmp_path: Path) -> tuple[Path, Path]:
    return write_many(tmp_path, 2)


def test_a_compact_record_is_written_as_it_was(many: tuple[Path, Path]) -> None:
    parts = SharedParts()
    for path in (many[0] / "records").glob("*.json"):
        content = json.loads(path.read_text())
        content["metrics"] = whole_metrics().model_dump(mode="json")
        content["environment"] = {"compiled": None, "threads": 1, "processor": "of this test"}
        record, twin = (Record.model_validate(content) for _ in range(2))
        compact = parts.compact(record)
        assert compact == twin
        assert compact.model_dump_json() == twin.model_dump_json()
        assert compact.model_dump(exclude_defaults=True) == twin.model_dump(exclude_defaults=True)
        changed = compact.model_copy(update={"device": "cuda"})
        assert changed == twin.model_copy(update={"device": "cuda"})
    assert not module.NOT_KNOWN


def test_what_is_empty_stays_what_it_is(many: tuple[Path, Path]) -> None:
    parts = SharedParts()
    for record in Store(many[0] / "records").all():
        bare = record.model_copy(update={"versions": {}, "knowledge": (), "environment": None})
        compact = parts.compact(bare)
        assert (compact.versions, compact.knowledge, compact.environment) == ({}, (), None)


def test_records_share_what_is_equal(many: tuple[Path, Path]) -> None:
    records = list(read_records(many[0]).records.values())
    assert len(records) == 2 * OF_A_SEED
    for part in ("versions", "knowledge"):
        assert len({id(getattr(record, part)) for record in records}) == 1
    parts = [each for r in records for each in (r, r.cell, r.metrics, r.cost)]
    assert {id(each.__pydantic_fields_set__) for each in parts} == {id(module.NOT_KNOWN)}


def test_a_record_of_a_suite_has_the_cell_of_its_entry(many: tuple[Path, Path]) -> None:
    measured, _ = read_cells(many[0], suite_entries(str(many[1])))
    assert len(measured) == 2 * OF_A_SEED
    assert all(m.record is not None and m.record.cell is m.entry.cell for m in measured)


def test_another_cell_is_not_shared(many: tuple[Path, Path]) -> None:
    record = next(Store(many[0] / "records").all())
    other = record.cell.model_copy(update={"seed": 99})
    assert not share_cell(record, other)
    assert record.cell.seed != 99
    compact = SharedParts().compact(record, other)
    assert compact.cell.seed != 99


def test_cells_of_a_suite_are_validated_once_and_share_their_parameters(
    many: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    validated: list[Cell] = []
    check = Cell.model_validate

    def noted(content: Any) -> Cell:
        validated.append(check(content))
        return validated[-1]

    monkeypatch.setattr(cells.Cell, "model_validate", noted)
    entries = suite_entries(str(many[1]))
    assert len(validated) == len(entries) == 2 * OF_A_SEED
    for field, distinct in (("attack_parameters", 4), ("model_parameters", 1)):
        assert len({id(getattr(entry.cell, field)) for entry in entries}) == distinct


def test_the_places_of_metrics_are_made_once() -> None:
    first, again = leaves(whole_metrics()), leaves(whole_metrics())
    assert first == again
    assert all(one.path is two.path for one, two in zip(first, again, strict=True))
    names = [leaf.name for leaf in first]
    assert "properties['gender'].auc" in names
    assert "images.psnr" in names
    assert "main_task['accuracy']" in names


def test_of_endless_names_only_some_places_are_kept() -> None:
    metrics = whole_metrics()
    named = dict.fromkeys([f"p{number}" for number in range(2 * MOST_KEYS)], 0.5)
    found = leaves(metrics.model_copy(update={"main_task": named}))
    assert sum(leaf.path[0] == "main_task" for leaf in found) == len(named)
    assert spec_of(found[-1].path) is not None
    place = dict(ROOT.of_fields(type(metrics)))["main_task"]
    assert len(place._keys) <= MOST_KEYS


def test_rows_of_lists_make_the_frame_that_dictionaries_make() -> None:
    """With the types of columns, where values are missing or come late."""
    rows: list[dict[str, Any]] = [
        {"key": "a", "number": 1, "gap": None},
        {"key": "b", "late": 2, "number": 2, "gap": 3},
        {"late": 0.5, "yes": True},
        {"key": None, "yes": None},
        {},
    ]
    for some in (rows, rows[1:], rows[::-1][1:], rows[:1]):
        made = _Rows()
        for row in some:
            made.add(row)
        pd.testing.assert_frame_equal(made.frame(), pd.DataFrame(some))


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("layout", ["defense", "exact"])
def test_no_section_is_smaller_than_its_least_size(
    many: tuple[Path, Path], layout: str, padded: bool
) -> None:
    many[1].write_text(many[1].read_text().replace('layout = "defense"', f'layout = "{layout}"'))
    for entries in (suite_entries(str(many[1])), suite_entries(str(write_suite(many[0], 40)))):
        report = SuiteReport(read_cells(many[0], entries)[0])
        for group in report.groups:
            section = harmless(report.section(group, padded=padded))
            assert 0 < report.least_size(group) <= len(section.encode())


def test_a_table_that_cannot_fit_is_not_written(
    many: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    report = SuiteReport(read_cells(many[0], suite_entries(str(many[1])))[0])
    written: list[str] = []
    section = SuiteReport.section

    def noted(self: SuiteReport, group: str, *form: Any, **named: Any) -> str:
        written.append(group)
        return section(self, group, *form, **named)

    monkeypatch.setattr(SuiteReport, "section", noted)
    assert suite_page._fitting(report, 10_000) == list(report.sections().values())
    written.clear()
    (note,) = suite_page._fitting(report, report.least_size("By seed") - 1)
    assert "1 table left out" in note
    assert written == []
