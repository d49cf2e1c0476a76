"""The limits of a sweep, and its outcome."""

from __future__ import annotations

from dataclasses import dataclass, field

from leakbench.experiments.expansion import SuiteEntry


@dataclass(frozen=True)
class Limits:
    """What a step may take.

    Attributes:
        seconds: time limit of a cell; None for none. Shared work has no limit.
        retries: how often a step is attempted again after its worker died, or ran out of memory or
            disk.
    """

    seconds: float | None = None
    retries: int = 2


@dataclass(frozen=True)
class Failure:
    """A cell that failed.

    Attributes:
        usage: whether the user can correct it.
        details: the traceback, if it is the program's fault.
    """

    entry: SuiteEntry
    message: str
    usage: bool
    details: str


@dataclass
class Outcome:
    """The outcome of a sweep.

    Attributes:
        measured: number of cells that were measured.
        elsewhere: number of cells that another run has measured in the meantime.
        left: number of cells that an interrupt has left as they were.
        interrupted: the signal that interrupted the sweep; 0 for none.
    """

    failures: list[Failure] = field(default_factory=list)
    measured: int = 0
    elsewhere: int = 0
    left: int = 0
    interrupted: int = 0
