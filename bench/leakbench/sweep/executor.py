"""What a sweep asks of those that do its steps: processes of this machine, or a Ray cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from leakbench.base.choices import Compiling
from leakbench.records.record import Record
from leakbench.sweep.steps import Step


@dataclass(frozen=True)
class Site:
    """What a step needs to know of the place where it is done.

    Attributes:
        data_root: the folder of real data sets.
        device: on which tensors are computed.
        lpips_weights: a file of AlexNet's weights; without it images have no LPIPS.
        compiling: whether attacks compile their steps.
    """

    data_root: Path | None
    device: str
    lpips_weights: Path | None = None
    compiling: Compiling = "auto"


@dataclass(frozen=True)
class Problem:
    """Why a step came to nothing.

    Attributes:
        message: in one sentence.
        usage: whether the user can put it right.
        passing: whether it may go well next time: memory or disk was short, not the code wrong.
        ends: whether no other step would go better, as on a full disk.
        details: a traceback.
    """

    message: str
    usage: bool = False
    passing: bool = False
    ends: bool = False
    details: str = ""


@dataclass(frozen=True)
class Begun:
    """A worker has begun a step."""

    step: str
    worker: str


@dataclass(frozen=True)
class Told:
    """A worker tells how a step goes on.

    Attributes:
        share: of the step that is done; None if it tells something else.
        doing: what it does now, in a few words.
        warning: why it goes on in another way than asked.
    """

    step: str
    share: float | None = None
    doing: str = ""
    warning: str = ""


@dataclass(frozen=True)
class Answered:
    """A step is at its end: shared work is done, or a cell has its record, or neither.

    Attributes:
        built: what was not in the worker's cache, and is now.
    """

    step: str
    record: Record | None = None
    problem: Problem | None = None
    built: tuple[str, ...] = ()


@dataclass(frozen=True)
class Lost:
    """A worker died, or was killed, over a step."""

    step: str
    why: str


Report = Begun | Told | Answered | Lost


class Executor(Protocol):
    """Does steps side by side."""

    def room(self) -> int:
        """Return how many more steps it takes at the moment."""

    def submit(self, step: Step) -> None:
        """Have a step done, now or as soon as a worker is free."""

    def reports(self) -> Sequence[Report]:
        """Return what has happened; wait a moment for it, not longer."""

    def forget(self, step: str) -> None:
        """Let go of what a piece of shared work has made: no step needs it any more."""

    def kill(self, step: str) -> None:
        """Kill the worker that does a step, which is then reported lost."""

    def close(self) -> None:
        """Stop all that still runs."""
