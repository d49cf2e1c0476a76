"""The display of a running sweep: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from leakbench.base.durations import duration
from leakbench.metrics.formatting import counted
from leakbench.sweep.events import (
    CellDone,
    Closed,
    Doing,
    Elsewhere,
    Event,
    Failed,
    Opened,
    Retrying,
    SharedDone,
    Started,
    State,
    Warned,
)

LINE_EVERY = 30.0
"""Seconds between two lines of progress if there is no live view."""

WORKERS_SHOWN = 16

WIDE = 110
"""Columns of a terminal that the whole line of progress takes."""


class RunConsole:
    """Shows finished cells, what workers are doing, the share of work done, and the time left."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._cells = self._done = self._failed = self._elsewhere = 0
        self._began = self._last_line = time.monotonic()
        self._printed: set[str] = set()
        self._workers: dict[str, _Work] = {}
        self._state = State(0.0, 1.0, {})
        self._live = Live(
            console=console, get_renderable=self._view, refresh_per_second=4, transient=True
        )

    def __enter__(self) -> RunConsole:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def on_event(self, event: Event) -> None:
        """Show an event, if it is of interest to a person."""
        match event:
            case Opened(cells=cells, shared=shared, workers=workers):
                self._cells = cells
                work = counted(shared, "piece of shared work", "pieces of shared work")
                self._print(f"{counted(cells, 'cell')} to measure, {work}, {workers}")
            case Started(what=what, worker=worker, attempt=attempt):
                again = f" (attempt {attempt})" if attempt > 1 else ""
                self._workers[worker] = _Work(f"{what}{again}")
            case Doing(what=what, worker=worker):
                if worker in self._workers:
                    self._workers[worker].doing = what
                self._print_once(f"{what} …")
            case Warned(warning=warning):
                self._print_once(f"warning: {warning}")
            case SharedDone(worker=worker):
                self._workers.pop(worker, None)
            case CellDone(what=what, worker=worker, status=status, attack_seconds=seconds):
                self._workers.pop(worker, None)
                self._done += 1
                parts = (f"{self._counted()} {what}: {status} in {duration(seconds)}", self._left())
                self._print(", ".join(filter(None, parts)))
            case Failed(what=what, worker=worker, error=error, cells=cells):
                self._workers.pop(worker, None)
                self._failed += cells
                self._print(f"failed: {what}: {first_line(error)}")
            case Retrying(what=what, worker=worker, why=why, attempt=attempt, attempts=attempts):
                self._workers.pop(worker, None)
                self._print(f"attempt {attempt} of {attempts}: {what}: {first_line(why)}")
            case Elsewhere(done=True):
                self._elsewhere += 1
            case Elsewhere(what=what):
                self._print(f"another run measures {what}")
            case Closed(measured=measured, failed=failed, left=left, seconds=seconds):
                done = f"{counted(measured, 'cell')} measured"
                others = f", {self._elsewhere} by another run" if self._elsewhere else ""
                took = duration(seconds)
                self._print(f"{done}{others}, {failed} failed, {left} left, in {took}")

    def on_progress(self, state: State) -> None:
        """Show the progress: in the live view, or in a line every `LINE_EVERY` seconds."""
        self._state = state
        now = time.monotonic()
        if not self._console.is_terminal and now - self._last_line >= LINE_EVERY:
            self._last_line = now
            parts = (f"{self._share():.0f} % done", self._rate(), self._left())
            self._print(", ".join(filter(None, parts)))

    def _view(self) -> RenderableType:
        line = self._line(self._console.width)
        workers = Table("worker", "does", "", "for", box=None, header_style="dim")
        for name, work in list(self._workers.items())[:WORKERS_SHOWN]:
            share = self._state.shares.get(name, 0.0)
            # First what changes: on a narrow terminal the rest is cut off.
            did = f"{work.doing} – {work.what}" if work.doing else work.what
            workers.add_row(
                Text(name),
                Text(did, no_wrap=True, overflow="ellipsis"),
                Text(f"{100 * share:.0f} %" if share else "", no_wrap=True),
                Text(duration(time.monotonic() - work.since), no_wrap=True),
            )
        hidden = len(self._workers) - WORKERS_SHOWN
        if hidden > 0:
            workers.add_row(Text("…"), Text(f"and {hidden} more workers"), Text(""), Text(""))
        return Group(line, workers)

    def _line(self, width: int) -> RenderableType:
        """Return the share of work done; in a narrow terminal a shorter bar, and no rate."""
        failed = Text(f"{self._failed} failed", style="red" if self._failed else "")
        running = Text(f"{len(self._workers)} running,")
        left = self._left()
        rate = [part for part in (self._rate(), left) if part]
        parts: list[RenderableType] = [
            Text(f"{self._counted()} cells" if self._cells else "starting"),
            ProgressBar(total=100, completed=self._share(), width=20 if width >= WIDE else 10),
            Text(f"{self._share():.0f} %"),
        ]
        parts += [running, failed, Text(f"– {', '.join(rate)}")] if width >= WIDE else [Text(left)]
        line = Table.grid(padding=(0, 1))
        for _ in parts:
            line.add_column(no_wrap=True)
        line.add_row(*parts)
        return line

    def _counted(self) -> str:
        return f"{self._done + self._failed + self._elsewhere}/{self._cells}"

    def _share(self) -> float:
        return 100 * self._state.done / self._state.total if self._state.total else 100.0

    def _rate(self) -> str:
        """Return how many cells an hour are done; empty before the first."""
        hours = (time.monotonic() - self._began) / 3600
        if not self._done or not hours:
            return ""
        rate = self._done / hours
        return f"{rate / 60:.1f} cells a minute" if rate >= 60 else f"{rate:.1f} cells an hour"

    def _left(self) -> str:
        """Return the estimated time left at the rate so far; empty at the start."""
        if self._state.done <= 0:
            return ""
        elapsed = time.monotonic() - self._began
        left = elapsed * (self._state.total - self._state.done) / self._state.done
        return f"about {duration(left)} left"

    def _print_once(self, text: str) -> None:
        """Print a text that several workers report, such as the loading of data, only once."""
        if text not in self._printed:
            self._printed.add(text)
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)


class _Work:
    """What a worker is doing, and since when."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.doing = ""
        self.since = time.monotonic()


def first_line(text: str) -> str:
    r"""Return the first line of an error.

    >>> first_line("RuntimeError: no\nmore")
    'RuntimeError: no …'
    """
    first, *more = text.strip().splitlines() or [""]
    return f"{first} …" if more else first
