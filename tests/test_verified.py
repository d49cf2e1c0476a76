"""What this machine verified is remembered, carried along by merges, and not believed of others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from editing import edit, path_of
from leakbench.records.merge import merge
from leakbench.records.record import Record
from leakbench.records.store import Store
from leakbench.records.verified import NAME, content_hash, entries, verified, write
from leakbench.verification.verify import verify
from verification_fixtures import entry_of, foreign_entry

pytest_plugins = ["verification_fixtures"]

Run = Callable[..., tuple[int, str, str]]


def test_what_this_machine_did_not_write_verifies_nothing(
    folder: Path, record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forged = entry_of(record, agrees=False).model_copy(update={"agrees": True, "differences": ()})
    other = entry_of(record).model_copy(update={"signature": "é" * 64})
    for entry in (foreign_entry(record), forged, other):
        write(folder, {record.key: entry})
        assert verified(folder) == set()
        found = entries(folder)
        assert (dict(found.own), dict(found.foreign)) == ({}, {record.key: entry})
    # Nor does a signature of another record's entry.
    write(folder, {record.key: foreign_entry(record).signed("0" * 24)})
    assert verified(folder) == set()
    write(folder, {record.key: entry_of(record)})
    assert verified(folder) == {record.key}
    monkeypatch.setenv("LEAKBENCH_CACHE", str(tmp_path / "cache of another machine"))
    assert verified(folder) == set()


def test_the_secret_is_the_users_alone(record: Record, cache: Path) -> None:
    entry_of(record)
    secret = cache / "verification.secret"
    assert secret.stat().st_mode & 0o077 == 0
    before = secret.read_bytes()
    entry_of(record)
    assert secret.read_bytes() == before


def test_a_record_that_was_edited_afterwards_is_not_verified(folder: Path, record: Record) -> None:
    assert verified(folder) == set()
    write(folder, {record.key: entry_of(record)})
    assert verified(folder) == {record.key}
    assert verified(folder / "records") == {record.key}
    edit(path_of(folder, "feature"), "cost/seconds", 1.0)
    assert verified(folder) == set()


def test_a_record_that_did_not_agree_or_is_gone_is_not_verified(
    folder: Path, record: Record
) -> None:
    write(folder, {record.key: entry_of(record, agrees=False), "0" * 24: entry_of(record)})
    assert verified(folder) == set()


def test_a_file_that_says_nothing_verifies_nothing(folder: Path) -> None:
    (folder / NAME).write_text("{")
    assert verified(folder) == set()


def test_a_hash_does_not_depend_on_how_a_record_is_written(folder: Path, record: Record) -> None:
    path = path_of(folder, "feature")
    path.write_text(json.dumps(json.loads(path.read_text()), indent=3, sort_keys=True))
    again = Store(folder / "records").read(record.key)
    assert again is not None
    assert content_hash(again) == content_hash(record)


def test_merge_carries_what_this_machine_verified(
    folder: Path, record: Record, tmp_path: Path
) -> None:
    write(folder, {record.key: entry_of(record)})
    done = merge([folder], tmp_path / "out")
    assert (done.taken, done.left_out, done.verified, done.foreign) == (3, {}, 1, 0)
    assert verified(tmp_path / "out") == {record.key}
    assert merge([folder / "records"], tmp_path / "again").verified == 1


def test_merge_drops_what_another_machine_says_it_verified(
    run: Run, folder: Path, record: Record, tmp_path: Path
) -> None:
    write(folder, {record.key: foreign_entry(record)})
    code, printed, said = run("merge", str(folder), "--out", "out")
    assert code == 0
    assert "not merged: 1 entries of verified.json, since this machine did not write them" in said
    assert "are verified" not in printed
    assert not (tmp_path / "out" / NAME).exists()
    # The folder's own file keeps its entries, such as those that come with it.
    write(tmp_path / "out", {record.key: foreign_entry(record)})
    done = merge([folder], tmp_path / "out")
    assert (done.verified, done.foreign) == (0, 0)
    assert set(entries(tmp_path / "out").foreign) == {record.key}


def test_merge_carries_nothing_of_a_record_that_was_edited(
    folder: Path, record: Record, tmp_path: Path
) -> None:
    write(folder, {record.key: entry_of(record)})
    edit(path_of(folder, "feature"), "cost/seconds", 1.0)
    assert merge([folder], tmp_path / "out").verified == 0
    assert not (tmp_path / "out" / NAME).exists()


def test_a_file_that_cannot_be_read_is_set_aside_not_overwritten(
    folder: Path, record: Record
) -> None:
    (folder / NAME).write_text("of a later version")
    write(folder, {record.key: entry_of(record)})
    assert verified(folder) == {record.key}
    assert (folder / "verified.set-aside").read_text() == "of a later version"


def test_what_this_machine_wrote_earlier_is_kept_and_the_rest_only_if_asked_for(
    folder: Path, record: Record
) -> None:
    other = Store(folder / "records").read(path_of(folder, "prior").stem)
    assert other is not None
    content = {record.key: entry_of(record), other.key: foreign_entry(other)}
    write(folder, content)
    assert verify(folder, None, sample=0, keep=True).aside is None
    assert set(entries(folder).foreign) == {other.key}
    aside = verify(folder, None, sample=0).aside
    assert aside is not None
    assert set(json.loads(aside.read_text())["remeasured"]) == set(content)
    assert verified(folder) == {record.key}
    assert not entries(folder).foreign
    assert verify(folder, None, sample=0).aside is None
