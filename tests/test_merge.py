"""Parts of a sweep are measured apart and united; what contradicts itself is refused."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from forking import completed
from leakbench.base.errors import UsageError
from leakbench.experiments.expansion import SuiteEntry
from leakbench.metrics.estimates import Estimate
from leakbench.records.data_frame import results, write_results
from leakbench.records.merge import merge
from leakbench.records.record import Record
from leakbench.records.store import Store
from leakbench.sweep.shard import Shard
from records import record_of, suite_entries, version_of
from running import records

HALF = Estimate(value=0.5, low=0.4, high=0.6)
MORE = Estimate(value=0.7, low=0.6, high=0.8)


@pytest.fixture(scope="module")
def cells() -> list[SuiteEntry]:
    return suite_entries("quick")


def record(cell: SuiteEntry, estimate: Estimate = HALF) -> Record:
    properties = dict.fromkeys(cell.cell.properties, estimate)
    shared = {"accuracy": 0.5, "most_frequent_class": 0.5}
    return record_of(cell, properties, main_task=shared, classes=2)


def failed(cell: SuiteEntry) -> Record:
    return Record(
        key=cell.key,
        cell=cell.cell,
        attack_version=version_of(cell),
        status="failed",
        error="out of luck",
    )


def run_folder(path: Path, records: list[Record]) -> Path:
    for each in records:
        Store(path / "records").write(each)
    return path


def test_records_of_several_folders_come_into_one(tmp_path: Path, cells: list[SuiteEntry]) -> None:
    first = run_folder(tmp_path / "1", [record(cells[0]), record(cells[1])])
    second = run_folder(tmp_path / "2", [record(cells[1]), record(cells[2])])
    out = run_folder(tmp_path / "out", [record(cells[0])])
    done = merge([first, second / "records"], out)
    assert (done.taken, done.had, done.left_out) == (2, 1, {})
    for cell in cells[:3]:
        assert Store(out / "records").read(cell.key) is not None
    again = merge([first, second], out)
    assert (again.taken, again.had) == (0, 3)


def test_a_record_is_copied_as_it_is(tmp_path: Path, cells: list[SuiteEntry]) -> None:
    """Also one of an earlier version, which has fewer fields and other spaces."""
    first = run_folder(tmp_path / "1", [record(cells[0])])
    path = Store(first / "records").path(cells[0].key)
    content = json.loads(path.read_text())
    del content["cell"]["central"]
    path.write_text(json.dumps(content, indent=3))
    merge([first], tmp_path / "out")
    assert Store(tmp_path / "out" / "records").path(cells[0].key).read_bytes() == path.read_bytes()


def test_records_that_differ_are_named_and_nothing_is_written(
    tmp_path: Path, cells: list[SuiteEntry]
) -> None:
    first = run_folder(tmp_path / "1", [record(cells[0]), record(cells[1])])
    second = run_folder(tmp_path / "2", [record(cells[1], MORE)])
    with pytest.raises(UsageError, match="1 cells have records that differ") as error:
        merge([first, second], tmp_path / "out")
    assert cells[1].cell.attack in str(error.value)
    assert str(second / "records" / f"{cells[1].key}.json") in str(error.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_failed_record_yields(
    tmp_path: Path, cells: list[SuiteEntry], order: tuple[int, int]
) -> None:
    folders = [
        run_folder(tmp_path / "1", [failed(cells[0])]),
        run_folder(tmp_path / "2", [record(cells[0])]),
    ]
    merge([folders[i] for i in order], tmp_path / "out")
    kept = Store(tmp_path / "out" / "records").read(cells[0].key)
    assert kept is not None
    assert kept.status == "done"


def test_what_holds_no_record_is_told_and_left(tmp_path: Path, cells: list[SuiteEntry]) -> None:
    first = run_folder(tmp_path / "1", [record(cells[0])])
    broken = first / "records" / "broken.json"
    broken.write_text("{")
    renamed = first / "records" / f"{'0' * 24}.json"
    renamed.write_text(Store(first / "records").path(cells[0].key).read_text())
    edited = first / "records" / f"{cells[1].key}.json"
    edited.write_text(record(cells[1]).model_copy(update={"cell": cells[2].cell}).model_dump_json())
    done = merge([first], tmp_path / "out")
    assert done.taken == 1
    assert done.left_out == {
        broken: "it holds no record that can be read",
        renamed: f"the record in it has another key, {cells[0].key}",
        edited: "its key is not that of its content, which was changed",
    }
    assert broken.exists()
    with pytest.raises(UsageError, match="holds no records"):
        merge([tmp_path / "nowhere"], tmp_path / "out")


def test_shards_are_a_partition_of_about_equal_work(cells: list[SuiteEntry]) -> None:
    unique = list({cell.key: cell for cell in cells}.values())
    parts = [Shard(i, 3).of(unique) for i in (1, 2, 3)]
    keys = [cell.key for part in parts for cell in part]
    assert sorted(keys) == sorted(cell.key for cell in unique)
    loads = [sum(cell.resolved.work for cell in part) for part in parts]
    assert max(loads) - min(loads) <= max(cell.resolved.work for cell in unique)
    assert Shard(2, 3).of(unique[::-1])[::-1] == parts[1]


@pytest.mark.parametrize("text", ["", "0/3", "4/3", "1", "a/b", "1/0"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"is not of the form I/N, from 1/N to N/N"):
        Shard.parse(text)


def test_an_unreadable_record_is_set_aside_and_nothing_is_lost(
    tmp_path: Path, cells: list[SuiteEntry]
) -> None:
    store = Store(tmp_path)
    store.write(record(cells[0]))
    whole = store.path(cells[0].key).read_text()
    assert store.quarantine(cells[0].key) is None
    assert store.quarantine("nothing") is None
    for number, cut in enumerate((whole[:40], "")):
        store.path(cells[0].key).write_text(cut)
        aside = store.quarantine(cells[0].key)
        assert aside is not None
        assert aside.read_text() == cut
        assert not store.path(cells[0].key).exists()
        assert len(list(tmp_path.glob("*.unreadable*"))) == number + 1


def test_results_are_a_row_a_cell_and_property(tmp_path: Path, cells: list[SuiteEntry]) -> None:
    run_folder(tmp_path, [record(cells[0]), record(cells[1], MORE), failed(cells[2])])
    frame = results(tmp_path)
    assert len(frame) == 2 * len(cells[0].cell.properties) + 1
    row = frame[frame.key == cells[1].key].iloc[0]
    assert (row.balanced_accuracy, row.balanced_accuracy_low) == (0.7, 0.6)
    assert row.attack == cells[1].cell.attack
    assert frame[frame.status == "failed"].error.tolist() == ["out of luck"]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_results_are_exported(tmp_path: Path, cells: list[SuiteEntry], ending: str) -> None:
    run_folder(tmp_path, [record(cells[0])])

    def exported() -> None:
        path = tmp_path / f"table.{ending}"
        assert write_results(tmp_path, path) == len(cells[0].cell.properties)
        frame = pd.read_csv(path) if ending == "csv" else pd.read_parquet(path)
        assert frame.balanced_accuracy.tolist() == [0.5] * len(frame)

    # In a copy of this process, which itself is copied later: reading Parquet starts threads.
    done = completed(exported, os.environ)
    assert done.returncode == 0, done.stderr
    with pytest.raises(UsageError, match=r"neither in \.csv nor in \.parquet"):
        write_results(tmp_path, tmp_path / "table.xlsx")
    with pytest.raises(UsageError, match="holds no records"):
        results(tmp_path / "nowhere")


Run = Callable[..., tuple[int, str, str]]

SUITE = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 300 }
properties = ["gender"]
main_task = "2-class"
model_parameters = { width = 4 }
clients = 2
rounds = 1
victim_share = 0.2
individuals = 8

[attack.prior]

[attack.blind]

[[group]]
title = "Table 2"
layout = "table2"
sweep = { batch_size = [1, 4] }
"""

RUN = ("run", "small.toml", "--workers", "1", "--out", "out")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of the suite, and what it printed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "small.toml").write_text(SUITE)
    done = completed(["leakbench", *RUN], os.environ, folder)
    assert done.returncode == 0, done.stderr
    return folder, done.stdout


@pytest.fixture
def table(whole: tuple[Path, str], tmp_path: Path) -> str:
    """What the run printed, whose folder is copied into the test's."""
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    return whole[1]


def test_shards_of_a_run_unite_to_its_table(run: Run, table: str) -> None:
    for number in (1, 2):
        code, _, _ = run(*RUN[:-1], f"part-{number}", "--shard", f"{number}/2")
        assert code == 0
    code, out, _ = run("merge", "part-1", "part-2", "--out", "united")
    assert code == 0
    assert "Added 4 records to the 0 in" in out
    code, united, _ = run("report", "small.toml", "--out", "united")
    assert code == 0
    assert united.replace("united", "out") == table
    code, out, _ = run("results", "table.csv", "--out", "united")
    assert code == 0
    assert "Wrote 4 rows to table.csv" in out


def test_a_torn_record_is_told_set_aside_and_measured_again(
    run: Run, table: str, tmp_path: Path
) -> None:
    whole = records(tmp_path)
    record = tmp_path / "out" / "records" / min(whole)
    record.write_text(record.read_text()[:100])
    code, again, told = run(*RUN)
    assert code == 0
    assert f"{record.name}: it holds no record that can be read" in told.replace("\n", "")
    assert "3 of 4 cells have their record" in told
    assert again == table
    assert records(tmp_path) == whole
    assert record.with_suffix(".unreadable").exists()


def edited(path: Path) -> Path:
    """Change what a record is of, but not its key, as somebody might to fill a row with ease."""
    content = json.loads(path.read_text())
    content["cell"]["individuals"] *= 2
    path.write_text(json.dumps(content))
    return path


def test_run_measures_again_what_is_not_what_its_name_says(
    run: Run, table: str, tmp_path: Path
) -> None:
    changed = edited(min((tmp_path / "out" / "records").glob("*.json")))
    code, again, told = run(*RUN)
    assert code == 0
    assert f"{changed.name}: its key is not that of its content" in told.replace("\n", "")
    assert again == table
    assert changed.with_suffix(".misnamed").exists()


@pytest.mark.filterwarnings("default::leakbench.records.store.BadRecordWarning")
def test_other_commands_leave_such_a_record_out_and_name_it(
    run: Run, table: str, tmp_path: Path
) -> None:
    first, second = sorted((tmp_path / "out" / "records").glob("*.json"))[:2]
    edited(first)
    second.unlink()
    second.mkdir()
    for command in (("plan", "small.toml"), ("report", "small.toml"), ("results", "table.csv")):
        code, printed, told = run(*command, "--out", "out")
        assert code == 0, told
        said = [line for line in told.splitlines() if "left out" in line]
        assert len(said) == 2, told
        assert any(f"left out {first.name}: its key is not that" in line for line in said)
        assert any(f"left out {second.name}: it cannot be read" in line for line in said)
        if command[0] == "plan":
            assert "4 cells: 2 have their record, 2 have no record" in printed
    assert set(pd.read_csv(tmp_path / "table.csv").key).isdisjoint({first.stem, second.stem})


@pytest.mark.filterwarnings("default::leakbench.records.store.BadRecordWarning")
def test_report_leaves_out_a_record_that_cannot_be_shown(
    run: Run, table: str, tmp_path: Path
) -> None:
    first = min((tmp_path / "out" / "records").glob("*.json"))
    content = json.loads(first.read_text())
    content["metrics"]["properties"] = {}
    first.write_text(json.dumps(content))
    code, printed, told = run("report", "small.toml", "--out", "out")
    assert code == 0
    assert f"left out {first.name}: it has no metrics of gender" in told
    assert "—" in printed or "–" in printed


@pytest.mark.parametrize(
    ("redo", "measured"), [("never", 0), ("failed", 1), ("stale", 2), ("all", 4)]
)
def test_which_cells_are_measured_again(
    run: Run, table: str, tmp_path: Path, redo: str, measured: int
) -> None:
    store = Store(tmp_path / "out" / "records")
    keys = sorted(path.stem for path in store.folder.glob("*.json"))
    records = [store.read(key) for key in keys]
    assert records[0] is not None
    assert records[1] is not None
    store.write(records[0].model_copy(update={"status": "failed", "metrics": None}))
    store.write(records[1].model_copy(update={"fingerprint": "of other data"}))
    before = {key: store.path(key).stat().st_mtime_ns for key in keys}
    run(*RUN, "--redo", redo)
    assert sum(store.path(key).stat().st_mtime_ns != before[key] for key in keys) == measured


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "seconds"),
    [(1_000, None), pytest.param(50_000, 10, marks=pytest.mark.nightly)],
    ids=["thousand", "fifty thousand, in ten seconds"],
)
def test_many_records_are_a_table(
    tmp_path: Path, cells: list[SuiteEntry], count: int, seconds: float | None
) -> None:
    """In seconds of the processor, which other processes do not make longer."""
    (tmp_path / "records").mkdir()
    made = [record(cell) for cell in cells]
    for number in range(count):
        each = made[number % len(made)]
        cell = each.cell.model_copy(update={"seed": number})
        moved = each.model_copy(update={"cell": cell, "key": cell.key(each.attack_version)})
        (tmp_path / "records" / f"{moved.key}.json").write_text(moved.model_dump_json())
    began = time.process_time()
    frame = results(tmp_path)
    took = time.process_time() - began
    assert frame.key.nunique() == count
    assert seconds is None or took < seconds
