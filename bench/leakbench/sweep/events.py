"""Events of a sweep, for those who watch it: the console, and the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Opened:
    """A run begins.

    Attributes:
        cells: number of cells to measure.
        shared: number of pieces of shared work that they need.
        workers: description of the workers.
    """

    cells: int
    shared: int
    workers: str


@dataclass(frozen=True)
class Started:
    """A worker has started a step.

    Attributes:
        what: description of the step.
        key: of the cell; empty for shared work.
        attempt: number of this attempt, from 1.
    """

    what: str
    key: str
    worker: str
    attempt: int


@dataclass(frozen=True)
class Doing:
    """What a worker is doing within a step."""

    what: str
    worker: str


@dataclass(frozen=True)
class Warned:
    """A worker warns, e.g. that a step runs uncompiled."""

    warning: str
    worker: str


@dataclass(frozen=True)
class SharedDone:
    """A piece of shared work is done.

    Attributes:
        work: in gradient evaluations.
        built: paths in the cache that were missing, and were built.
        model: the name of the shared model.
    """

    what: str
    worker: str
    seconds: float
    work: float
    built: tuple[str, ...]
    model: str


@dataclass(frozen=True)
class CellDone:
    """A cell is measured and its record written.

    Attributes:
        seconds: since its worker started it.
        attack_seconds: the part of them that the attack took.
    """

    what: str
    key: str
    status: str
    worker: str
    seconds: float
    attack_seconds: float


@dataclass(frozen=True)
class Failed:
    """A cell has failed; or a piece of shared work, and with it all cells that need it."""

    what: str
    key: str
    worker: str
    seconds: float
    error: str
    details: str = ""
    cells: int = 1


@dataclass(frozen=True)
class Retrying:
    """A step will be attempted again.

    Attributes:
        attempt: number of the next attempt.
        attempts: how many there are at most.
    """

    what: str
    key: str
    worker: str
    why: str
    attempt: int
    attempts: int


@dataclass(frozen=True)
class Elsewhere:
    """Another run is measuring a cell, or has measured it.

    Attributes:
        done: whether its record is written.
    """

    what: str
    key: str
    done: bool


@dataclass(frozen=True)
class Closed:
    """A run has ended.

    Attributes:
        why: `done`, `interrupted`, or the error that ended it.
        left: number of cells that were not measured and did not fail.
        seconds: duration of the run.
    """

    why: str
    measured: int
    failed: int
    left: int
    seconds: float


Event = (
    Opened
    | Started
    | Doing
    | Warned
    | SharedDone
    | CellDone
    | Failed
    | Retrying
    | Elsewhere
    | Closed
)


@dataclass(frozen=True)
class State:
    """Progress of a sweep.

    Attributes:
        done, total: sums of step weights, see `Step`.
        shares: worker → share of its step that is done.
    """

    done: float
    total: float
    shares: dict[str, float]


class Watcher(Protocol):
    """Receives the events and the progress of a sweep."""

    def on_event(self, event: Event) -> None:
        """Handle an event."""

    def on_progress(self, state: State) -> None:
        """Handle the current progress; called several times a second."""


class Watchers:
    """Several watchers as one."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def on_event(self, event: Event) -> None:
        """Pass an event to all."""
        for watcher in self._watchers:
            watcher.on_event(event)

    def on_progress(self, state: State) -> None:
        """Pass the progress to all."""
        for watcher in self._watchers:
            watcher.on_progress(state)
