"""What a run shows while it goes on: a progress bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
)

from bench.rows import describe
from bench.store import Record
from bench.suite import Planned

LINE_EVERY = 30.0
"""Seconds between two lines of progress where there is no bar."""


class RunConsole:
    """Shows cells as they finish, the share of work done, and the time left.

    Args:
        cells: how many cells will be measured.
    """

    def __init__(self, console: Console, cells: int) -> None:
        self._console = console
        self._cells = cells
        self._finished = 0
        self._started = time.monotonic()
        self._last_line = 0.0
        self._said: set[str] = set()
        self._left = ""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._bar = self._progress.add_task("starting", total=1.0, left="")

    def __enter__(self) -> RunConsole:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def working(self, done: float, total: float) -> None:
        """Move the bar; the time left assumes that work goes on at the pace so far."""
        elapsed = time.monotonic() - self._started
        if done > 0:
            self._left = f"about {_duration(elapsed * (total - done) / done)} left"
        if not self._console.is_terminal and elapsed - self._last_line >= LINE_EVERY:
            self._last_line = elapsed
            self._print(f"{100 * done / total:.0f} % done, {self._left or 'starting'}")
        self._progress.update(
            self._bar,
            completed=done / total,
            description=f"{self._finished}/{self._cells} cells",
            left=self._left,
        )

    def busy(self, what: str) -> None:
        """Say what a worker has begun, once: workers repeat what comes out of the cache."""
        if what not in self._said:
            self._said.add(what)
            self._print(f"{what} …")

    def warned(self, warning: str) -> None:
        """Show a warning, once."""
        if warning not in self._said:
            self._said.add(warning)
            self._print(f"warning: {warning}")

    def finished(self, planned: Planned, record: Record) -> None:
        """Say that a cell has its record."""
        self._finished += 1
        if record.cost is None:
            self._print(f"failed: {describe(planned)}: {record.error}")
            return
        left = f", {self._left}" if self._left and not self._console.is_terminal else ""
        self._print(
            f"{self._finished}/{self._cells} {describe(planned)}: {record.status} in "
            f"{_duration(record.cost.seconds)}{left}"
        )

    def _print(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, soft_wrap=True, markup=False)


def _duration(seconds: float) -> str:
    """Return seconds as `5 s`, `3 min 20 s` or `2 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
