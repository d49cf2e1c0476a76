"""A sweep: submits steps to an executor, retries them, and writes the records of cells."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from leakbench.base.errors import UsageError
from leakbench.base.files import WriteError
from leakbench.base.registry import ATTACKS
from leakbench.experiments.expansion import SuiteEntry
from leakbench.records.record import Record
from leakbench.records.store import Stamp, Store
from leakbench.sweep.claims import Claims
from leakbench.sweep.events import (
    CellDone,
    Closed,
    Doing,
    Elsewhere,
    Failed,
    Opened,
    Retrying,
    SharedDone,
    Started,
    State,
    Warned,
    Watcher,
)
from leakbench.sweep.executor import (
    Executor,
    Problem,
    Report,
    StepCompleted,
    StepProgress,
    StepStarted,
    WorkerDied,
)
from leakbench.sweep.interrupts import Interrupt, interrupts_held
from leakbench.sweep.outcome import Failure, Limits, Outcome
from leakbench.sweep.schedule import Schedule
from leakbench.sweep.steps import Measure, Step

CHECK_OTHER_RUNS_EVERY = 1.0
"""Seconds between two checks of cells that another run is measuring."""


class Sweep:
    """Runs steps with an executor, and writes records to a store; nothing else writes there.

    Args:
        stamps: of the files that held the cells' records when these cells were chosen; a cell whose
            file has changed since was measured by another run.
        where: description of the workers.
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
        self._schedule = Schedule(steps)
        self._attempts = dict.fromkeys(self._steps, 0)
        self._running: dict[str, _Running] = {}
        self._elsewhere: dict[str, None] = {}
        self._other_runs_checked = 0.0
        self._done = 0.0
        self._total = sum(step.weight for step in steps)
        self.outcome = Outcome()

    def run(self) -> Outcome:
        """Run all steps; after an interrupt, write what is measured and leave the rest.

        Raises:
            UsageError: no record can be written any more.
        """
        began = time.monotonic()
        cells = sum(step.entry is not None for step in self._steps.values())
        self._watcher.on_event(Opened(cells, len(self._steps) - cells, self._where))
        self._claims = Claims(self._store.folder)
        why, interrupt = "ended by an error of the program", Interrupt()
        try:
            with interrupts_held() as interrupt:
                self._run_until_done(interrupt)
            if not self._schedule.unfinished():
                # A signal after the last step comes too late to interrupt anything.
                interrupt.signal = 0
            why = "interrupted" if interrupt.signal else "done"
        except UsageError as error:
            why = str(error)
            raise UsageError(
                f"{error}; all finished cells are kept; fix that and run the same command again"
            ) from error
        finally:
            self._executor.close()
            self._claims.close()
            left = sum(step.entry is not None for step in self._schedule.unfinished())
            outcome = self.outcome
            outcome.left, outcome.interrupted = left, interrupt.signal
            seconds = time.monotonic() - began
            failed = len(outcome.failures)
            # If this cannot be logged, the error that ended the sweep is the one to report.
            with suppress(WriteError):
                self._watcher.on_event(Closed(why, outcome.measured, failed, left, seconds))
        return outcome

    def _run_until_done(self, interrupt: Interrupt) -> None:
        while self._schedule.unfinished() and not interrupt.came():
            self._check_other_runs()
            self._submit()
            reports = self._executor.reports()
            if interrupt.came():
                self._handle_completed(reports)
                break
            self._handle_all(reports)
            self._kill_what_takes_too_long()
            self._watcher.on_progress(self._state())
        if interrupt.came():
            self._handle_completed(self._executor.reports())

    def _handle_completed(self, reports: Sequence[Report]) -> None:
        """Handle what succeeded: after an interrupt, a step that ends otherwise has not failed."""
        ended = [report for report in reports if isinstance(report, StepCompleted)]
        self._handle_all([report for report in ended if report.problem is None])

    def _submit(self) -> None:
        """Submit as many steps as the executor takes, in order of priority."""
        while self._executor.free_slots() > 0 and (step := self._schedule.next()) is not None:
            if step.entry is None or self._claimed(step):
                self._schedule.start(step)
                self._attempts[step.name] += 1
                self._running[step.name] = _Running()
                self._executor.submit(step)

    def _claimed(self, step: Step) -> bool:
        """Claim a cell; return False if another run is measuring it, or has measured it."""
        if not self._claims.take(step.name):
            if step.name not in self._elsewhere:
                self._elsewhere[step.name] = None
                self._watcher.on_event(Elsewhere(step.description, step.name, done=False))
            return False
        # None: another run has quarantined a file that held no record.
        if self._store.stamp(step.name) in (None, self._stamps.get(step.name)):
            return True
        self._claims.release(step.name)
        self.outcome.elsewhere += 1
        record = self._store.read(step.name)
        if record is not None and record.status == "failed":
            assert step.entry is not None
            self.outcome.failures.append(Failure(step.entry, record.error or "", False, ""))
        self._watcher.on_event(Elsewhere(step.description, step.name, done=True))
        self._finish(step)
        return False

    def _check_other_runs(self) -> None:
        """Queue the cells that another run was measuring, to see whether it still is."""
        now = time.monotonic()
        if not self._elsewhere or now - self._other_runs_checked < CHECK_OTHER_RUNS_EVERY:
            return
        self._other_runs_checked = now
        for name in self._elsewhere:
            step = self._steps[name]
            if name not in self._running and self._schedule.is_waiting(step):
                self._schedule.queue(step)

    def _handle_all(self, reports: Sequence[Report]) -> None:
        """Handle every report, even if one of them ends the sweep."""
        end: UsageError | None = None
        for report in reports:
            try:
                self._handle(report)
            except UsageError as error:
                end = end or error
        if end is not None:
            raise end

    def _handle(self, report: Report) -> None:
        running = self._running.get(report.step)
        if running is None:
            # The step has ended: another machine has done it once more.
            return
        step = self._steps[report.step]
        match report:
            case StepStarted(worker=worker):
                running.worker, running.since = worker, time.monotonic()
                attempt = self._attempts[step.name]
                self._watcher.on_event(Started(step.description, _key(step), worker, attempt))
            case StepProgress(share=share, doing=doing, warning=warning):
                running.share = running.share if share is None else max(running.share, share)
                if warning:
                    self._watcher.on_event(Warned(warning, running.worker))
                if doing:
                    self._watcher.on_event(Doing(doing, running.worker))
            case StepCompleted(problem=None):
                self._succeeded(step, running, report)
            case StepCompleted(problem=Problem() as problem):
                self._failed(step, running, problem)
            case WorkerDied(why=why):
                self._failed(step, running, self._problem_of_death(running, why))

    def _succeeded(self, step: Step, running: _Running, result: StepCompleted) -> None:
        seconds, worker = running.seconds(), running.worker
        if not isinstance(step.task, Measure):
            self._stop(step)
            model = step.task.setup.model
            self._watcher.on_event(
                SharedDone(step.description, worker, seconds, step.work, result.built, model)
            )
        else:
            record = result.record
            assert record is not None and record.cost is not None
            self._write(step, record)
            self._stop(step)
            self.outcome.measured += 1
            of_attack = record.cost.seconds
            self._watcher.on_event(
                CellDone(step.description, step.name, record.status, worker, seconds, of_attack)
            )
        self._finish(step)
        self._schedule.unlock(step)

    def _failed(self, step: Step, running: _Running, problem: Problem) -> None:
        """Retry a step if that may help; otherwise it has failed, and every step that needs it."""
        if problem.fatal:
            raise UsageError(problem.message)
        attempt, attempts = self._attempts[step.name], 1 + self._limits.retries
        if problem.transient and attempt < attempts:
            self._stop(step)
            self._watcher.on_event(
                Retrying(
                    what=step.description,
                    key=_key(step),
                    worker=running.worker,
                    why=problem.message,
                    attempt=attempt + 1,
                    attempts=attempts,
                )
            )
            self._schedule.queue(step)
            return
        times = f" ({attempt} attempts)" if attempt > 1 else ""
        message = f"{problem.message}{times}"
        if step.entry is not None:
            self._write(step, _failed_record(step.entry, message, self._device))
        self._stop(step)
        failed = self._schedule.with_dependents(step)
        for each in failed:
            self._finish(each)
            if each.entry is not None:
                self.outcome.failures.append(
                    Failure(each.entry, message, problem.usage, problem.details)
                )
        self._watcher.on_event(
            Failed(
                what=step.description,
                key=_key(step),
                worker=running.worker,
                seconds=running.seconds(),
                error=message,
                details="" if problem.usage else problem.details,
                cells=sum(each.entry is not None for each in failed),
            )
        )

    def _write(self, step: Step, record: Record) -> None:
        """Write a record; but a failed one never replaces one that is not."""
        earlier = self._store.read(step.name) if record.status == "failed" else None
        if earlier is None or earlier.status == "failed":
            self._store.write(record)

    def _problem_of_death(self, running: _Running, why: str) -> Problem:
        if not running.too_long:
            return Problem(f"its worker {why}", transient=True)
        limit = self._limits.seconds
        return Problem(
            f"it took longer than {(limit or 0) / 60:g} min; give it less to do, or raise "
            f"--time-limit"
        )

    def _kill_what_takes_too_long(self) -> None:
        limit = self._limits.seconds
        if limit is None:
            return
        for name, running in self._running.items():
            late = running.since is not None and running.seconds() > limit
            if late and not running.too_long and self._steps[name].entry is not None:
                running.too_long = True
                self._executor.kill(name)

    def _stop(self, step: Step) -> None:
        """Note that a step is not running any more; other runs may take its cell."""
        del self._running[step.name]
        self._schedule.stop(step)
        if step.entry is not None:
            self._claims.release(step.name)

    def _finish(self, step: Step) -> None:
        """Note that a step is over, whether it succeeded or not."""
        for need in self._schedule.finish(step):
            self._executor.release(need)
        self._elsewhere.pop(step.name, None)
        self._done += step.weight

    def _state(self) -> State:
        shares = {name: running.share for name, running in self._running.items()}
        part = sum(self._steps[name].weight * share for name, share in shares.items())
        by_worker = {r.worker: r.share for r in self._running.values() if r.since is not None}
        return State(self._done + part, self._total, by_worker)


@dataclass
class _Running:
    """A submitted step.

    Attributes:
        worker: name of its worker, once that has started it.
        since: when it was started.
        share: of the step that is done.
        too_long: whether it was killed for exceeding the time limit.
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
