"""The machine-readable log of runs: one line of JSON per event."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from leakbench.base.files import WriteError
from leakbench.sweep.events import Event, Retrying, State

NAMES: dict[type[Event], str] = {Retrying: "Again"}
"""Event → its name in the log, where that is not the name of its class: logs keep their names."""


class RunLog:
    """Appends the events of a run to a file, which several runs may share at the same time.

    A line has `time` (ISO 8601, UTC), `run` (the same in all lines of a run), `event` (the name of
    a class in `leakbench.sweep.events`, or its older name in `NAMES`) and the fields of that class.

    Args:
        path: of the file.

    Raises:
        WriteError: the file cannot be written to.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._run = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{os.getpid()}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if _is_torn(path):
                self._append("")
        except OSError as error:
            raise self._failure(error) from error

    def on_event(self, event: Event) -> None:
        """Append an event.

        Raises:
            WriteError: the disk is full, or the file cannot be written to.
        """
        stamp = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "run": self._run,
            "event": NAMES.get(type(event), type(event).__name__),
        }
        try:
            self._append(json.dumps(stamp | asdict(event), ensure_ascii=False))
        except OSError as error:
            raise self._failure(error) from error

    def on_progress(self, state: State) -> None:
        """Do nothing: progress is not logged."""

    def _append(self, line: str) -> None:
        # One write to a file opened for appending, so that lines of two runs do not mix.
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            rest = f"{line}\n".encode()
            # On an almost full disk a part is written; the next write then says what is wrong.
            while rest:
                rest = rest[os.write(handle, rest) :]
        finally:
            os.close(handle)

    def _failure(self, error: OSError) -> WriteError:
        return WriteError(f"cannot write {self._path}: {error.strerror or error}")


def _is_torn(path: Path) -> bool:
    """Whether a file ends in the middle of a line, as after a full disk."""
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except OSError:
        # It does not exist, or is empty.
        return False
