"""What commands show on a terminal fits its width, says what is left out, and begins at once."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from leakbench.base.documents import plain, print_document
from leakbench.base.terminal_tables import Column, print_table
from leakbench.cli.loading import ERASE_LINE
from leakbench.sweep.console import RunConsole
from leakbench.sweep.events import Doing, Opened, Started, State
from running import SUITE

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def at_terminal(run: Run, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Return a function that runs a command on a terminal of a width, and returns its lines."""

    def ran(width: int, *arguments: str) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        code, out, err = run(*arguments)
        assert code == 0, err
        return [Text.from_ansi(line).plain.rstrip() for line in out.splitlines()]

    return ran


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize(
    "command",
    [
        *(["list", kind] for kind in ("attacks", "datasets", "models", "defenses", "suites")),
        ["plan", "small.toml"],
        ["show", "ul"],
    ],
    ids=" ".join,
)
def test_commands_fit_the_terminal(
    at_terminal: Callable[..., list[str]], write: Any, command: list[str], width: int
) -> None:
    write(SUITE)
    lines = at_terminal(width, *command)
    assert max(map(cell_len, lines)) <= width
    assert not any(line.startswith("|") for line in lines)


def test_a_list_says_which_columns_are_left_out(at_terminal: Callable[..., list[str]]) -> None:
    heading, *rows = at_terminal(60, "list", "attacks")
    assert heading.split() == ["attack", "column", "control"]
    assert rows[-1] == "Left out at this width: knows, reference."
    # A wide one has them, references broken between words.
    wide = at_terminal(160, "list", "attacks")
    assert "reference" in wide[0] and "Left out" not in wide[-1]


def test_a_piped_plan_is_markdown_whatever_the_width(
    run: Run, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    code, out, _ = run("plan", write(SUITE), "--only", "attack=prior")
    assert code == 0
    assert "| attack   | to measure   | on one worker   |\n|:---" in out


SETTING = "Mouth_Slightly_Open+Black_Hair+Bangs (K = 8)"
VALUE = "100.0 [100.0, 100.0], certified 100.0"


def printed(columns: list[Column], width: int) -> list[str]:
    out = io.StringIO()
    print_table(Console(file=out, width=width, color_system=None), columns)
    return [line.rstrip() for line in out.getvalue().splitlines()]


def test_long_leading_columns_become_lines_above_the_rows_that_share_them() -> None:
    columns = [
        Column("main task", [SETTING, SETTING, "Smiling"], 0),
        Column("B", ["1", "8", "1"], 0),
        Column("Mask demixing", [VALUE] * 3, 1),
        Column("IG", ["50.0"] * 3, 2),
    ]
    assert printed(columns, 60) == [
        "B  Mask demixing                          IG",
        f"main task = {SETTING}",
        f"1  {VALUE}  50.0",
        f"8  {VALUE}  50.0",
        "main task = Smiling",
        f"1  {VALUE}  50.0",
    ]
    assert printed(columns, 40)[-1] == "Left out at this width: IG."


def test_no_value_is_broken_where_it_fits_alone() -> None:
    columns = [Column("B", ["1", "8"], 0), Column("Mask demixing", [VALUE] * 2, 1)]
    assert printed(columns, len(VALUE)) == ["Mask demixing", "B = 1", VALUE, "B = 8", VALUE]


def test_sentences_break_between_words_on_a_terminal_and_not_at_all_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = (
        f"Mask demixing certifies the exact deep feature of {'8 of 8 individuals, ' * 6}\x1b]0;"
    )
    print_document([sentence], plain)
    assert capsys.readouterr().out == f"{sentence}\n"
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_document([sentence], plain)
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 60
    assert out.split()[:-1] == sentence.split()[:-1]
    assert "\x1b]" not in out


def test_a_terminal_says_at_once_that_the_program_loads(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, piped = run("list", "suites")
    assert "loading" not in piped
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "dumb")
    assert "loading" not in run("list", "suites")[2]
    monkeypatch.setenv("TERM", "xterm")
    _, out, shown = run("list", "suites")
    assert shown == f"loading leakbench …{ERASE_LINE}"
    assert "loading" not in out


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_progress_of_training_is_seen_at_every_width(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    step = f"small_cnn for {SETTING} on celeba, 1000 rounds"
    with RunConsole(console) as view:
        view.on_event(Opened(36, 3, "2 workers on cpu"))
        view.on_event(Started(step, "", "1", 1))
        view.on_event(Doing(f"round 300 of 1000: training small_cnn for {SETTING}", "1"))
        view.on_progress(State(10.0, 400.0, {"1": 0.0}))
        console.print(view._view())
    lines = out.getvalue().rpartition("0/36 cells")[2].splitlines()
    assert "left" in lines[0] and len(lines[0]) + len("0/36 cells") <= width
    row = next(line for line in lines if line.startswith(" 1 "))
    assert "round 300 of 1000" in row
    assert len(lines) < 7
