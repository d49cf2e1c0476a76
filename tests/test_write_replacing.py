"""A file that is replaced at once is whole: the earlier one, or the new one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from leakbench.base import files
from leakbench.base.files import WriteError, write_replacing
from leakbench.base.leftovers import TEMPORARY


def test_it_has_the_content_and_the_rights_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "KEY.json"
    for content in (b"", b"{}", os.urandom(3_000_000)):
        write_replacing(path, content)
        assert path.read_bytes() == content
        assert path.stat().st_mode & 0o777 == 0o644
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("call", ["fsync", "write"])
def test_what_fails_leaves_the_earlier_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "KEY.json"
    path.write_bytes(b"earlier")

    def full(*_: object) -> int:
        (temporary,) = (each for each in tmp_path.iterdir() if each != path)
        assert TEMPORARY.fullmatch(temporary.name)  # Swept later if this process is killed.
        raise OSError(28, "No space left on device")

    class Full(files.io.FileIO):
        write = full

    if call == "fsync":
        monkeypatch.setattr(files.os, "fsync", full)
    else:
        monkeypatch.setattr(files.io, "FileIO", Full)
    with pytest.raises(WriteError, match=r"cannot write .*KEY\.json: No space left on device"):
        write_replacing(path, b"new")
    assert path.read_bytes() == b"earlier"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WriteError, match=r"cannot write to .*file: "):
        write_replacing(tmp_path / "file" / "KEY.json", b"new")
    (tmp_path / "KEY.json").mkdir()
    with pytest.raises(WriteError, match=r"cannot write .*KEY\.json: "):
        write_replacing(tmp_path / "KEY.json", b"new")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["KEY.json", "file"]


def test_interrupted_writing_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, "fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        write_replacing(tmp_path / "KEY.json", b"new")
    assert list(tmp_path.iterdir()) == []
