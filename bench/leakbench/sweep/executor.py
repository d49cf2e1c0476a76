"""The interface between a sweep and its executor: local processes, or a Ray cluster."""

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
    """What a step needs to know about the machine that runs it.

    Attributes:
        data_root: the folder of real data sets.
        device: where tensors are computed.
        lpips_weights: a file of AlexNet's weights; without it images have no LPIPS.
        compiling: whether attacks compile their steps.
    """

    data_root: Path | None
    device: str
    lpips_weights: Path | None = None
    compiling: Compiling = "auto"


@dataclass(frozen=True)
class Problem:
    """Why a step failed.

    Attributes:
        message: one sentence.
        usage: whether the user can correct it.
        transient: whether another attempt may succeed, e.g. if memory or disk was short.
        fatal: whether every other step would fail too, as on a full disk.
        details: the traceback.
    """

    message: str
    usage: bool = False
    transient: bool = False
    fatal: bool = False
    details: str = ""


@dataclass(frozen=True)
class StepStarted:
    """A worker has started a step."""

    step: str
    worker: str


@dataclass(frozen=True)
class StepProgress:
    """A message from the worker about its running step.

    Attributes:
        share: of the step that is done, in [0, 1]; None if the message is about something else.
        doing: what the worker is doing now.
        warning: something that the user should know, e.g. that the step runs uncompiled.
    """

    step: str
    share: float | None = None
    doing: str = ""
    warning: str = ""


@dataclass(frozen=True)
class StepCompleted:
    """A step has ended: with shared work done, with a cell's record, or with a problem.

    Attributes:
        built: paths that were missing in the worker's cache, and were built.
    """

    step: str
    record: Record | None = None
    problem: Problem | None = None
    built: tuple[str, ...] = ()


@dataclass(frozen=True)
class WorkerDied:
    """The worker of a step died or was killed."""

    step: str
    why: str


Report = StepStarted | StepProgress | StepCompleted | WorkerDied


class Executor(Protocol):
    """Runs steps in parallel."""

    def free_slots(self) -> int:
        """Return how many more steps may be submitted now."""

    def submit(self, step: Step) -> None:
        """Run a step, now or as soon as a worker is free."""

    def reports(self) -> Sequence[Report]:
        """Return new reports; wait for them at most a fraction of a second."""

    def release(self, step: str) -> None:
        """Drop the results of a piece of shared work, which no step needs any more."""

    def kill(self, step: str) -> None:
        """Kill the worker of a step; `reports` then contains its `WorkerDied`."""

    def close(self) -> None:
        """Stop all workers."""
