"""The log of runs for machines: a line of JSON for each event."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from leakbench.base.files import WriteError
from leakbench.sweep.events import Event, State


class RunLog:
    """Appends what happens in a run to a file, which runs share, also at the same time.

    A line has `time` (ISO 8601, UTC), `run` (the same for all lines of a run), `event` (the name of
    a class in `leakbench.sweep.events`) and the fields of that class.

    Args:
        path: of the file.
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

    def happened(self, event: Event) -> None:
        """Append an event.

        Raises:
            WriteError: the disk is full, or the file cannot be written to.
        """
        stamp = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "run": self._run,
            "event": type(event).__name__,
        }
        try:
            self._append(json.dumps(stamp | asdict(event), ensure_ascii=False))
        except OSError as error:
            raise self._failure(error) from error

    def stands(self, state: State) -> None:
        """Moments are not logged."""

    def _append(self, line: str) -> None:
        # One write of a file opened to append: lines of two runs do not mix.
        handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            rest = f"{line}\n".encode()
            # On a disk that is almost full a part goes well, and the next says what is wrong.
            while rest:
                rest = rest[os.write(handle, rest) :]
        finally:
            os.close(handle)

    def _failure(self, error: OSError) -> WriteError:
        return WriteError(f"cannot write {self._path}: {error.strerror or error}")


def _is_torn(path: Path) -> bool:
    """Whether a file ends within a line, as after a full disk."""
    try:
        with path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read() != b"\n"
    except OSError:
        # It is not there, or empty.
        return False
