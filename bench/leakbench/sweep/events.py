"""What happens in a sweep, as those are told who watch it: a person, and the log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Opened:
    """A run begins.

    Attributes:
        cells: that are to be measured.
        shared: how many pieces of shared work they need.
        workers: where they are measured.
    """

    cells: int
    shared: int
    workers: str


@dataclass(frozen=True)
class Started:
    """A worker has begun a step.

    Attributes:
        key: of the cell; empty for shared work.
        attempt: the first is 1.
    """

    what: str
    key: str
    worker: str
    attempt: int


@dataclass(frozen=True)
class Doing:
    """What a worker does within a step."""

    what: str
    worker: str


@dataclass(frozen=True)
class Warned:
    """A worker goes on in another way than asked."""

    warning: str
    worker: str


@dataclass(frozen=True)
class SharedDone:
    """Shared work is done.

    Attributes:
        work: in gradient evaluations.
        built: what was not in the cache and is now.
    """

    what: str
    worker: str
    seconds: float
    work: float
    built: tuple[str, ...]


@dataclass(frozen=True)
class CellDone:
    """A cell has its record.

    Attributes:
        seconds: since its worker began.
        attack_seconds: that the attack took of them.
    """

    what: str
    key: str
    status: str
    worker: str
    seconds: float
    attack_seconds: float


@dataclass(frozen=True)
class Failed:
    """A cell has failed, or shared work, and with it all cells that need it."""

    what: str
    key: str
    worker: str
    seconds: float
    error: str
    details: str = ""
    cells: int = 1


@dataclass(frozen=True)
class Again:
    """A step comes to another attempt."""

    what: str
    key: str
    worker: str
    why: str
    attempt: int
    attempts: int


@dataclass(frozen=True)
class Elsewhere:
    """Another run measures, or has measured, a cell.

    Attributes:
        done: whether it has its record.
    """

    what: str
    key: str
    done: bool


@dataclass(frozen=True)
class Closed:
    """A run is at its end.

    Attributes:
        why: `done`, `interrupted`, or the error that ended it.
        seconds: that it took.
    """

    why: str
    measured: int
    failed: int
    left: int
    seconds: float


Event = (
    Opened | Started | Doing | Warned | SharedDone | CellDone | Failed | Again | Elsewhere | Closed
)


@dataclass(frozen=True)
class State:
    """How far a sweep is.

    Attributes:
        done, total: weights of steps, see `Step`.
        shares: worker → share of its step that is done.
    """

    done: float
    total: float
    shares: dict[str, float]


class Watcher(Protocol):
    """Is told how a sweep goes on."""

    def happened(self, event: Event) -> None:
        """Something happened."""

    def stands(self, state: State) -> None:
        """How far it is; told every moment."""


class Watchers:
    """Several watchers as one."""

    def __init__(self, *watchers: Watcher) -> None:
        self._watchers = watchers

    def happened(self, event: Event) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.happened(event)

    def stands(self, state: State) -> None:
        """Tell all."""
        for watcher in self._watchers:
            watcher.stands(state)
