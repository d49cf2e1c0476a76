"""Bad input of every kind is one sentence with exit code 2, at once: no traceback and no hang."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from leakbench.base.cache import cache_folder
from leakbench.base.errors import UsageError
from leakbench.base.files import read_json, read_regular
from leakbench.base.toml import parsed_toml
from leakbench.data.images import inside
from leakbench.data.label_files import read_lines, read_rows
from leakbench.datasets.synthetic import Synthetic
from leakbench.experiments.overrides import value_of
from leakbench.experiments.suite import load_suite
from leakbench.records import verified
from leakbench.records.checks import read_strictly
from leakbench.records.store import Store, Unusable
from leakbench.sweep.rates import _training_rates
from leakbench.sweep.shard import Shard
from publishing import done, write_run
from records import suite_entries

Run = Callable[..., tuple[int, str, str]]

DEEP, DIGITS = "[" * 20_000, "9" * 5_000

ODD = ("fifo", "folder", "loop", "deep", "digits", "latin", "nul")


def made(path: Path, kind: str, around: str = "{}") -> Path:
    """Put something that is no readable file of text in a path."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "latin":
        path.write_bytes(around.format("é").encode("latin-1"))
    else:
        path.write_text(around.format({"deep": DEEP, "digits": DIGITS, "nul": "\0"}[kind]))
    return path


@pytest.mark.parametrize("kind", ODD)
def test_every_reader_refuses_what_is_no_file_of_its_kind(kind: str, tmp_path: Path) -> None:
    record = made(tmp_path / "0123.json", kind)
    assert isinstance(Store(tmp_path).examine("0123"), Unusable)
    assert Store(tmp_path).read("0123") is None
    with pytest.raises(UsageError):
        read_strictly(record)
    with pytest.raises((OSError, ValueError)):
        read_json(record)
    made(tmp_path / verified.NAME, kind)
    assert verified.read(tmp_path) == verified.Verified()
    suite = made(tmp_path / "suite.toml", kind, "title = {}")
    with pytest.raises(UsageError, match=r"suite file .*suite\.toml|unknown suite"):
        load_suite(str(suite))
    if kind in ("fifo", "folder", "loop", "latin"):
        with pytest.raises(UsageError, match=r"label file .* cannot be read"):
            list(read_lines(made(tmp_path / "labels.txt", kind)))


@pytest.mark.parametrize("field", ["key", "image_size", "batch_size", "rounds"])
@pytest.mark.parametrize("value", [DEEP, DIGITS, "1e999", "-1", '"\\ud800"'])
def test_a_record_with_an_odd_value_is_set_aside(field: str, value: str, tmp_path: Path) -> None:
    record = done(suite_entries("quick")[0])
    store = Store(tmp_path)
    store.write(record)
    path = store.path(record.key)
    lines = path.read_text().splitlines()
    number = next(i for i, line in enumerate(lines) if line.strip().startswith(f'"{field}":'))
    close = "]" * len(DEEP) if value == DEEP else ""
    lines[number] = f'"{field}": {value}{close},'
    path.write_text("\n".join(lines))
    assert isinstance(store.examine(record.key), Unusable)
    assert store.quarantine(record.key) is not None


def test_a_name_that_no_file_can_have_is_no_suite() -> None:
    for name in ("x" * 300, "x" * 300 + ".toml", "a\0b.toml", ""):
        with pytest.raises(UsageError, match="unknown suite"):
            load_suite(name)


@pytest.mark.parametrize("text", [f"a = {DIGITS}", "a = 0x" + "f" * 5_000, f"a = {DEEP}"])
def test_toml_that_python_cannot_hold_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        parsed_toml(text)
    # As for every setting that is no TOML, its text is the value.
    assert value_of(text.partition("= ")[2]) == text.partition("= ")[2]


def test_toml_may_hold_what_64_bits_hold() -> None:
    assert parsed_toml(f"a = {2**63 - 1}\nb = [true, -{2**63 - 1}]")["a"] == 2**63 - 1


def test_a_number_of_shards_costs_nothing() -> None:
    cells = suite_entries("quick")
    first = [Shard.parse(f"{i}/{10**17}").of(cells) for i in range(1, len(cells) + 1)]
    assert {e.key for part in first for e in part} == {c.key for c in cells}
    assert Shard(10**17, 10**17).of(cells) == []
    for text in (f"1/{DIGITS}", f"1/{10**18}", "0/1", "2/1"):
        with pytest.raises(UsageError, match="is not of the form I/N"):
            Shard.parse(text)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link") == b"x"
    handles = Path("/proc/self/fd")
    before = len(list(handles.iterdir())) if handles.is_dir() else None
    for path in (tmp_path, Path(os.devnull)):
        for _ in range(20):
            with pytest.raises(OSError, match="no regular file"):
                read_regular(path)
    if before is not None:
        assert len(list(handles.iterdir())) == before


def test_a_log_that_was_edited_costs_its_odd_lines_only(tmp_path: Path) -> None:
    lines = [
        DEEP,
        DIGITS,
        "{",
        "[]",
        '{"event": "SharedDone", "built": 3}',
        '{"built": ["models/"]}',
    ]
    odd: dict[str, object] = {"event": "SharedDone", "built": ["models/x"], "model": "m"}
    lines += [json.dumps({**odd, "seconds": value, "work": 1}) for value in ("x", None, [], {})]
    lines += [json.dumps({**odd, "model": [], "seconds": 9, "work": 1})]
    lines += [json.dumps(odd), json.dumps({**odd, "seconds": 6, "work": 3})]
    (tmp_path / "log.jsonl").write_text("\n".join(lines))
    assert _training_rates(tmp_path / "log.jsonl") == {"m": 2}
    os.mkfifo(tmp_path / "fifo")
    assert _training_rates(tmp_path / "fifo") == {}


def test_a_reading_that_is_no_text_is_one_sentence(tmp_path: Path, run: Run) -> None:
    write_run(tmp_path, map(done, suite_entries("quick")))
    (tmp_path / "quick.reading.md").write_bytes("é".encode("latin-1"))
    code, _, said = run("report", "quick", "--out", str(tmp_path))
    assert "quick.reading.md is no text in UTF-8" in one_sentence(code, said)


@pytest.mark.parametrize("name", ["x" * 300 + ".jpg", "a/" + "é" * 128, "a\0b"])
def test_a_label_file_cannot_list_what_no_file_can_be_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a name that no file can have"):
        inside(tmp_path, name, tmp_path / "labels.txt")


def test_label_files_may_be_written_by_other_tools(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes("\ufeffa 1\r\nß 2\r\n\r\n".encode())
    assert list(read_rows(tmp_path / "labels.txt", 2)) == [["a", "1"], ["ß", "2"]]


def test_more_individuals_than_can_be_drawn_are_refused_at_once() -> None:
    with pytest.raises(UsageError, match=r"individuals=10+ of data set synthetic is too large"):
        Synthetic(individuals=10**15).load(None, 64)


def one_sentence(code: int, said: str) -> str:
    assert code == 2, said
    assert len(said.splitlines()) == 1, said
    return said


def test_an_out_that_is_a_file_is_one_sentence(tmp_path: Path, run: Run) -> None:
    (tmp_path / "file").write_text("")
    for command in ("report", "run", "plan"):
        code, _, said = run(command, "quick", "--out", str(tmp_path / "file"))
        assert "cannot be read (Not a directory); name with --out" in one_sentence(code, said)


def test_a_cache_of_nobody_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEAKBENCH_CACHE", "~nobody-of-this-name/x")
    with pytest.raises(
        UsageError, match=r"^LEAKBENCH_CACHE is ~nobody-of-this-name/x, .*set it to"
    ):
        cache_folder()


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(24, "Too many open files", "x"), "x: Too many open files"),
        (MemoryError(), "memory ran out"),
        (RecursionError(), "nested too deeply"),
        (ImportError("x.so: failed to map segment from shared object"), "raise the limit"),
    ],
)
def test_what_the_machine_cannot_do_is_one_sentence(
    error: Exception, said: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("leakbench.sweep.suite_tables.report_suite", fail)
    code, _, printed = run("report", "quick")
    assert said in one_sentence(code, printed)


def test_a_worker_that_cannot_be_started_ends_the_run_in_one_sentence(
    tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(process: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("multiprocessing.process.BaseProcess.start", fail)
    code, _, said = run("run", "quick", "--out", str(tmp_path / "out"))
    assert "Too many open files" in said.splitlines()[-1]
    assert code == 2
    assert "Traceback" not in said


def test_a_link_to_itself_is_one_sentence(tmp_path: Path, run: Run) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for arguments in (
        ("publish", "--site", "loop/site"),
        ("report", "quick", "--out", "loop"),
        ("run", "loop.toml"),
    ):
        code, _, said = run(*arguments)
        one_sentence(code, said)


def test_names_that_are_too_long_are_one_sentence(tmp_path: Path, run: Run) -> None:
    long = str(tmp_path / ("x" * 300))
    for arguments in (
        ("report", "quick", "--out", long),
        ("merge", long, "--out", str(tmp_path)),
        ("verify", long),
        ("publish", "--out", str(tmp_path), "--site", long),
        ("results", long + ".csv", "--out", long),
    ):
        code, _, said = run(*arguments)
        one_sentence(code, said)
    assert list(tmp_path.iterdir()) == []
