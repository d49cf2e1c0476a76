"""A person sees how a sweep goes on, and a machine can read it."""

from __future__ import annotations

import io
import json
from pathlib import Path

from rich.console import Console

from leakbench.sweep.console import RunConsole
from leakbench.sweep.events import CellDone, Closed, Failed, Opened, Started, State
from leakbench.sweep.log import RunLog


def test_a_torn_line_of_the_log_spoils_no_other(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"event": "Sta')
    RunLog(path).on_event(Closed("done", 1, 0, 0, 2.0))
    torn, whole = path.read_text().splitlines()
    assert torn == '{"event": "Sta'
    event = json.loads(whole)
    assert (event["event"], event["measured"]) == ("Closed", 1)
    assert set(event) >= {"time", "run"}


def shown(terminal: bool) -> str:
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=120, color_system=None)
    with RunConsole(console) as view:
        view.on_event(Opened(4, 1, "2 workers on cpu"))
        view.on_event(Started("IG, celeba, B = 8", "a", "1", 1))
        view.on_event(Started("DLG, celeba, B = 8", "b", "2", 1))
        view.on_progress(State(1.0, 4.0, {"1": 0.25}))
        if terminal:
            view._live.refresh()
        view.on_event(CellDone("IG, celeba, B = 8", "a", "done", "1", 61.0, 60.0))
        view.on_event(Failed("DLG, celeba, B = 8", "b", "2", 1.0, "KeyError: 'x'\nmore"))
        view.on_event(Closed("done", 1, 1, 2, 61.0))
    return out.getvalue()


def test_a_terminal_shows_what_each_worker_does() -> None:
    text = shown(terminal=True)
    assert "0/4 cells" in text and "25 %" in text and "2 running" in text
    lines = text.splitlines()
    assert any("1" in line and "IG, celeba, B = 8" in line and "25 %" in line for line in lines)
    assert any("2" in line and "DLG, celeba, B = 8" in line for line in lines)


def test_a_file_gets_plain_lines() -> None:
    text = shown(terminal=False)
    assert "\x1b" not in text
    assert "1/4 IG, celeba, B = 8: done in 1 min 0 s" in text
    assert "failed: DLG, celeba, B = 8: KeyError: 'x' …" in text
    assert "1 cell measured, 1 failed, 2 left, in 1 min 1 s" in text
