"""A sweep: which step is next, what comes of it, and whose record is written."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from leakbench.base.errors import UsageError
from leakbench.base.files import WriteError
from leakbench.base.registry import ATTACKS
from leakbench.experiments.suite import SuiteEntry
from leakbench.records.record import Record
from leakbench.records.store import Stamp, Store
from leakbench.sweep.claims import Claims
from leakbench.sweep.events import (
    Again,
    CellDone,
    Closed,
    Doing,
    Elsewhere,
    Failed,
    Opened,
    SharedDone,
    Started,
    State,
    Warned,
    Watcher,
)
from leakbench.sweep.executor import Answered, Begun, Executor, Lost, Problem, Report, Told
from leakbench.sweep.interrupts import Interrupt, interrupts_held
from leakbench.sweep.steps import Step

LOOK_ELSEWHERE_EVERY = 1.0
"""Seconds between two looks at cells that another run measures."""


@dataclass(frozen=True)
class Limits:
    """What a step may take.

    Attributes:
        seconds: that a cell may take; None for no limit. Shared work has none.
        retries: how often a step is tried again whose worker died, or who lacked memory or disk.
    """

    seconds: float | None = None
    retries: int = 2


@dataclass(frozen=True)
class Failure:
    """A cell that failed: the user's fault or the program's."""

    entry: SuiteEntry
    message: str
    usage: bool
    details: str


@dataclass
class Outcome:
    """What came of a sweep.

    Attributes:
        measured: how many cells have a record that they had not.
        elsewhere: how many another run has measured meanwhile.
        left: how many are as before, since the sweep was interrupted.
        interrupted: by which signal; 0 for none.
    """

    failures: list[Failure] = field(default_factory=list)
    measured: int = 0
    elsewhere: int = 0
    left: int = 0
    interrupted: int = 0


class Sweep:
    """Steps in the hands of an executor, and records in a store, which it alone writes.

    Args:
        stamps: of the files that hold the cells' records as they were when these cells were chosen;
            a cell whose file is another by now was measured by somebody else.
        where: the workers in words.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        stamps: Mapping[str, Stamp | None],
        store: Store,
        executor: Executor,
        watcher: Watcher,
        device: str,
        limits: Limits,
        where: str = "",
    ) -> None:
        self._store, self._executor, self._watcher = store, executor, watcher
        self._stamps, self._limits, self._device, self._where = stamps, limits, device, where
        self._steps = {step.name: step for step in steps}
        self._open = dict.fromkeys(self._steps)
        self._missing = {step.name: set(step.needs) for step in steps}
        self._needed_by: dict[str, list[str]] = {}
        for step in steps:
            for need in step.needs:
                self._needed_by.setdefault(need, []).append(step.name)
        self._needing = {name: len(by) for name, by in self._needed_by.items()}
        self._ready = [(s.turn, i, s.name) for i, s in enumerate(steps) if not s.needs]
        heapq.heapify(self._ready)
        self._order = {step.name: number for number, step in enumerate(steps)}
        self._alone: set[str] = set()
        self._attempts = dict.fromkeys(self._steps, 0)
        self._running: dict[str, _Running] = {}
        self._elsewhere: dict[str, None] = {}
        self._looked = 0.0
        self._done = 0.0
        self._total = sum(step.weight for step in steps)
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Do all steps; after an interrupt, write what is measured and leave the rest.

        Raises:
            UsageError: nothing can be written any more.
        """
        began = time.monotonic()
        cells = [step for step in self._steps.values() if step.entry is not None]
        self._watcher.happened(Opened(len(cells), len(self._steps) - len(cells), self._where))
        self._claims = Claims(self._store.folder)
        why, interrupt = "ended by an error of the program", Interrupt()
        try:
            with interrupts_held() as interrupt:
                self._to_the_end(interrupt)
            if not self._open:
                # A signal after the last step comes too late to end anything.
                interrupt.signal = 0
            why = "interrupted" if interrupt.signal else "done"
        except UsageError as error:
            why = str(error)
            raise UsageError(
                f"{error}; all finished cells are kept: mend that, and run the same command again"
            ) from error
        finally:
            self._executor.close()
            self._claims.close()
            left = sum(self._steps[name].entry is not None for name in self._open)
            outcome = self.outcome
            outcome.left, outcome.interrupted = left, interrupt.signal
            seconds = time.monotonic() - began
            failed = len(outcome.failures)
            # If it cannot be logged, what ended the sweep says more.
            with suppress(WriteError):
                self._watcher.happened(Closed(why, outcome.measured, failed, left, seconds))
        return outcome

    def _to_the_end(self, interrupt: Interrupt) -> None:
        while self._open and not interrupt.signal:
            self._look_elsewhere()
            self._submit()
            self._take_all(self._executor.reports())
            self._end_what_takes_too_long()
            self._watcher.stands(self._state())
        if interrupt.signal:
            answers = [r for r in self._executor.reports() if isinstance(r, Answered)]
            self._take_all([answer for answer in answers if answer.problem is None])

    def _take_all(self, reports: Sequence[Report]) -> None:
        """Take every report, also where one of them ends the sweep."""
        end: UsageError | None = None
        for report in reports:
            try:
                self._take(report)
            except UsageError as error:
                end = end or error
        if end is not None:
            raise end

    def _submit(self) -> None:
        """Give the executor as many steps as it takes, in turn."""
        blocked = []
        while self._ready and self._executor.room() > 0:
            queued = heapq.heappop(self._ready)
            step = self._steps[queued[-1]]
            if step.alone in self._alone:
                blocked.append(queued)
            elif step.entry is None or self._claimed(step):
                self._alone |= {step.alone} - {""}
                self._attempts[step.name] += 1
                self._running[step.name] = _Running()
                self._executor.submit(step)
        for queued in blocked:
            heapq.heappush(self._ready, queued)

    def _claimed(self, step: Step) -> bool:
        """Claim a cell; it is ours to measure unless another run has it, or has measured it."""
        if not self._claims.take(step.name):
            if step.name not in self._elsewhere:
                self._elsewhere[step.name] = None
                self._watcher.happened(Elsewhere(step.what, step.name, done=False))
            return False
        # No file at all: another run has set one aside that held no record.
        if self._store.stamp(step.name) in (None, self._stamps.get(step.name)):
            return True
        self._claims.give_back(step.name)
        self.outcome.elsewhere += 1
        record = self._store.read(step.name)
        if record is not None and record.status == "failed":
            assert step.entry is not None
            self.outcome.failures.append(Failure(step.entry, record.error or "", False, ""))
        self._watcher.happened(Elsewhere(step.what, step.name, done=True))
        self._close(step)
        return False

    def _look_elsewhere(self) -> None:
        """Put cells that another run had back into the row, to see whether it still has them."""
        now = time.monotonic()
        if not self._elsewhere or now - self._looked < LOOK_ELSEWHERE_EVERY:
            return
        self._looked = now
        waiting = {queued[-1] for queued in self._ready}
        for name in self._elsewhere:
            if name in self._open and name not in self._running and name not in waiting:
                self._put(self._steps[name])

    def _put(self, step: Step) -> None:
        heapq.heappush(self._ready, (step.turn, self._order[step.name], step.name))

    def _take(self, report: Report) -> None:
        running = self._running.get(report.step)
        if running is None:
            # Of a step that is at its end: another machine did it once more.
            return
        step = self._steps[report.step]
        match report:
            case Begun(worker=worker):
                running.worker, running.since = worker, time.monotonic()
                attempt = self._attempts[step.name]
                self._watcher.happened(Started(step.what, _key(step), worker, attempt))
            case Told(share=share, doing=doing, warning=warning):
                running.share = running.share if share is None else max(running.share, share)
                if warning:
                    self._watcher.happened(Warned(warning, running.worker))
                if doing:
                    self._watcher.happened(Doing(doing, running.worker))
            case Answered(problem=None):
                self._succeeded(step, running, report)
            case Answered(problem=Problem() as problem):
                self._stumbled(step, running, problem)
            case Lost(why=why):
                self._stumbled(step, running, self._problem_of_loss(running, why))

    def _succeeded(self, step: Step, running: _Running, answer: Answered) -> None:
        seconds, worker = running.seconds(), running.worker
        if step.entry is None:
            self._stop(step)
            done = SharedDone(step.what, worker, seconds, step.work, answer.built)
            self._watcher.happened(done)
        else:
            record = answer.record
            assert record is not None and record.cost is not None
            self._write(step, record)
            self._stop(step)
            self.outcome.measured += 1
            of_attack = record.cost.seconds
            self._watcher.happened(
                CellDone(step.what, step.name, record.status, worker, seconds, of_attack)
            )
        self._close(step)
        for name in self._needed_by.get(step.name, ()):
            self._missing[name].discard(step.name)
            if not self._missing[name] and name in self._open:
                self._put(self._steps[name])

    def _stumbled(self, step: Step, running: _Running, problem: Problem) -> None:
        """Try a step again if that may help; else it has failed, and all that needs it."""
        if problem.ends:
            raise UsageError(problem.message)
        attempt, attempts = self._attempts[step.name], 1 + self._limits.retries
        if problem.passing and attempt < attempts:
            self._stop(step)
            self._watcher.happened(
                Again(step.what, _key(step), running.worker, problem.message, attempt + 1, attempts)
            )
            self._put(step)
            return
        times = f" ({attempt} attempts)" if attempt > 1 else ""
        message = f"{problem.message}{times}"
        if step.entry is not None:
            self._write(step, _failed_record(step.entry, message, self._device))
        self._stop(step)
        failed = list(self._with_all_that_need(step))
        for each in failed:
            self._close(each)
            if each.entry is not None:
                self.outcome.failures.append(
                    Failure(each.entry, message, problem.usage, problem.details)
                )
        self._watcher.happened(
            Failed(
                what=step.what,
                key=_key(step),
                worker=running.worker,
                seconds=running.seconds(),
                error=message,
                details="" if problem.usage else problem.details,
                cells=sum(each.entry is not None for each in failed),
            )
        )

    def _write(self, step: Step, record: Record) -> None:
        """Write a record; but a failed one never takes the place of one that is not."""
        earlier = self._store.read(step.name) if record.status == "failed" else None
        if earlier is None or earlier.status == "failed":
            self._store.write(record)

    def _with_all_that_need(self, step: Step) -> Iterator[Step]:
        yield step
        for name in self._needed_by.get(step.name, ()):
            if name in self._open:
                yield self._steps[name]

    def _problem_of_loss(self, running: _Running, why: str) -> Problem:
        if not running.too_long:
            return Problem(f"its worker {why}", passing=True)
        limit = self._limits.seconds
        return Problem(
            f"it took longer than {(limit or 0) / 60:g} min; give it less to do, or raise "
            f"--time-limit"
        )

    def _end_what_takes_too_long(self) -> None:
        limit = self._limits.seconds
        if limit is None:
            return
        for name, running in self._running.items():
            late = running.since is not None and running.seconds() > limit
            if late and not running.too_long and self._steps[name].entry is not None:
                running.too_long = True
                self._executor.kill(name)

    def _stop(self, step: Step) -> None:
        """A step runs no more; its cell may be had by others."""
        del self._running[step.name]
        self._alone.discard(step.alone)
        if step.entry is not None:
            self._claims.give_back(step.name)

    def _close(self, step: Step) -> None:
        """A step is at its end, well or not."""
        if step.name in self._open:
            del self._open[step.name]
            self._elsewhere.pop(step.name, None)
            for need in step.needs:
                self._needing[need] -= 1
                if not self._needing[need]:
                    self._executor.forget(need)
            self._done += step.weight

    def _state(self) -> State:
        going = {name: running.share for name, running in self._running.items()}
        part = sum(self._steps[name].weight * share for name, share in going.items())
        shares = {r.worker: r.share for r in self._running.values() if r.since is not None}
        return State(self._done + part, self._total, shares)


@dataclass
class _Running:
    """A step that was submitted.

    Attributes:
        since: when a worker began it; None while it waits for one.
        too_long: whether it is being ended for that.
    """

    worker: str = ""
    since: float | None = None
    share: float = 0.0
    too_long: bool = False

    def seconds(self) -> float:
        return 0.0 if self.since is None else time.monotonic() - self.since


def _key(step: Step) -> str:
    return "" if step.entry is None else step.name


def _failed_record(entry: SuiteEntry, message: str, device: str) -> Record:
    return Record(
        key=entry.key,
        cell=entry.cell,
        attack_version=ATTACKS.get(entry.cell.attack).version,
        status="failed",
        error=message,
        device=device,
    )
