"""The order of a sweep's steps, its retries, its failures, and its events."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from leakbench.base.errors import UsageError
from leakbench.experiments.cell import UTILITY_TRAININGS
from leakbench.experiments.expansion import SuiteEntry
from leakbench.records.record import Record
from leakbench.records.store import Store
from leakbench.sweep.events import CellDone, Event, Failed, Retrying, SharedDone, State
from leakbench.sweep.executor import (
    Problem,
    Report,
    StepCompleted,
    StepProgress,
    StepStarted,
    WorkerDied,
)
from leakbench.sweep.outcome import Limits, Outcome
from leakbench.sweep.steps import Measure, Prepare, Step, Train, steps_of
from leakbench.sweep.sweep import Sweep
from records import measured, suite_entries, version_of


@pytest.fixture(scope="module")
def quick() -> list[SuiteEntry]:
    return list({cell.key: cell for cell in suite_entries("quick")}.values())


class Scripted:
    """An executor whose result for each attempt at a step comes from a function."""

    def __init__(self, answers: Callable[[Step, int], Report | None], at_once: int = 2) -> None:
        self._answers, self._at_once = answers, at_once
        self._going: dict[str, Step] = {}
        self.submitted: list[str] = []
        self.killed: list[str] = []
        self.released: list[str] = []
        self.closed = False

    def free_slots(self) -> int:
        return self._at_once - len(self._going)

    def submit(self, step: Step) -> None:
        assert self.free_slots() > 0
        self._going[step.name] = step
        self.submitted.append(step.name)

    def reports(self) -> Sequence[Report]:
        found: list[Report] = []
        for name, step in list(self._going.items()):
            found.append(StepStarted(name, "1"))
            report: Report | None
            if name in self.killed:
                report = WorkerDied(name, "was killed by SIGKILL")
            else:
                report = self._answers(step, self.submitted.count(name))
            if report is not None:
                found.append(report)
                del self._going[name]
        return found

    def kill(self, step: str) -> None:
        self.killed.append(step)

    def release(self, step: str) -> None:
        self.released.append(step)

    def close(self) -> None:
        self.closed = True


def well(step: Step, attempt: int) -> Report:
    found = None if step.entry is None else measured(step.entry)
    return StepCompleted(step.name, found)


class Notes:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def on_event(self, event: Event) -> None:
        self.events.append(event)

    def on_progress(self, state: State) -> None:
        assert 0 <= state.done <= state.total


def swept(
    folder: Path, cells: Sequence[SuiteEntry], executor: Scripted, limits: Limits | None = None
) -> tuple[Outcome, list[Event]]:
    notes = Notes()
    outcome = Sweep(
        steps_of(cells), {}, Store(folder), executor, notes, "cpu", limits or Limits()
    ).run()
    assert executor.closed
    return outcome, notes.events


def test_shared_work_is_one_step_however_many_cells_need_it(quick: list[SuiteEntry]) -> None:
    steps = steps_of(quick)
    setups = {cell.cell.setup.model_dump_json() for cell in quick}
    assert sum(isinstance(step.task, Prepare) for step in steps) == len(setups)
    assert sum(isinstance(step.task, Measure) for step in steps) == len(quick)


def test_each_defense_is_trained_under_once() -> None:
    cells = list({cell.key: cell for cell in suite_entries("fig5")}.values())
    steps = steps_of(cells)
    trained = [step.task for step in steps if isinstance(step.task, Train)]
    told = [json.dumps([t.setup.training, t.defense and t.defense.table()]) for t in trained]
    assert len(set(told)) == len(told)
    assert {task.setup.training for task in trained} == set(range(UTILITY_TRAININGS))
    # What clients do by themselves: several clients' mean costs nothing.
    under = {task.defense.name for task in trained if task.defense}
    assert under.isdisjoint({"none", "secure_aggregation"})
    for step in steps:
        if step.entry is not None and step.entry.cell.defense == "gaussian":
            # The preparation, two more trainings without the defense, and three with it.
            assert len(step.needs) == 2 * UTILITY_TRAININGS


def test_a_centrally_trained_model_is_one_step_for_all_cells_before_their_preparation() -> None:
    cells = suite_entries("quick", "central=true")
    steps = {step.name: step for step in steps_of(cells)}
    trained = [step for step in steps.values() if isinstance(step.task, Train)]
    trainings = {cell.cell.setup.training_key("") for cell in cells}
    assert len(trained) == len(trainings)
    assert all(step.task.central for step in trained if isinstance(step.task, Train))
    for step in steps.values():
        if not isinstance(step.task, Train):
            assert [each for each in trained if each.name in step.needs]
    without = {
        step.exclusive_key for step in steps_of(suite_entries("quick")) if step.entry is None
    }
    assert without == {s.exclusive_key for s in steps.values() if isinstance(s.task, Prepare)}


def test_what_is_needed_comes_first_and_all_is_written(
    tmp_path: Path, quick: list[SuiteEntry]
) -> None:
    executor = Scripted(well)
    outcome, _ = swept(tmp_path, quick, executor)
    assert outcome.measured == len(quick)
    order = {name: number for number, name in enumerate(executor.submitted)}
    assert len(order) == len(executor.submitted)
    for step in steps_of(quick):
        assert all(order[need] < order[step.name] for need in step.needs)
        if step.entry is not None:
            assert Store(tmp_path).read(step.name) is not None


def test_shared_work_is_released_when_no_cell_needs_it(
    tmp_path: Path, quick: list[SuiteEntry]
) -> None:
    executor = Scripted(well)
    swept(tmp_path, quick, executor)
    shared = [step.name for step in steps_of(quick) if step.entry is None]
    assert sorted(executor.released) == sorted(shared)


def test_the_same_training_is_not_done_by_two_at_once(quick: list[SuiteEntry]) -> None:
    cell = quick[0].cell
    more = cell.model_copy(update={"properties": ("gender",)})
    other = replace(quick[0], resolved=replace(quick[0].resolved, cell=more), key=more.key(1))
    first, second = (s for s in steps_of([quick[0], other]) if isinstance(s.task, Prepare))
    assert first.exclusive_key == second.exclusive_key != ""


def test_a_death_costs_an_attempt_and_too_many_cost_the_cell(
    tmp_path: Path, quick: list[SuiteEntry]
) -> None:
    mortal, frail = quick[0].key, quick[1].key

    def answer(step: Step, attempt: int) -> Report:
        if step.name == mortal or (step.name == frail and attempt == 1):
            return WorkerDied(step.name, "was killed by SIGKILL")
        return well(step, attempt)

    executor = Scripted(answer)
    outcome, events = swept(tmp_path, quick, executor, Limits(retries=2))
    assert (executor.submitted.count(mortal), executor.submitted.count(frail)) == (3, 2)
    assert [failure.entry.key for failure in outcome.failures] == [mortal]
    assert outcome.failures[0].message == "its worker was killed by SIGKILL (3 attempts)"
    assert sum(isinstance(event, Retrying) for event in events) == 3
    failed = Store(tmp_path).read(mortal)
    assert failed is not None and failed.status == "failed"
    assert outcome.measured == len(quick) - 1


def test_a_mistake_of_the_code_is_not_tried_again(tmp_path: Path, quick: list[SuiteEntry]) -> None:
    def answer(step: Step, attempt: int) -> Report:
        if step.name == quick[0].key:
            return StepCompleted(step.name, problem=Problem("KeyError: 'a'", details="Traceback …"))
        return well(step, attempt)

    executor = Scripted(answer)
    outcome, events = swept(tmp_path, quick, executor)
    assert executor.submitted.count(quick[0].key) == 1
    assert [failure.message for failure in outcome.failures] == ["KeyError: 'a'"]
    (failed,) = (event for event in events if isinstance(event, Failed))
    assert (failed.key, failed.details) == (quick[0].key, "Traceback …")


def test_a_failure_takes_no_place_of_a_measurement(tmp_path: Path, quick: list[SuiteEntry]) -> None:
    store = Store(tmp_path)
    store.write(measured(quick[0]))
    stamps = {quick[0].key: store.stamp(quick[0].key)}
    executor = Scripted(
        lambda s, n: well(s, n) if s.entry is None else StepCompleted(s.name, problem=Problem("no"))
    )
    sweep = Sweep(steps_of(quick[:1]), stamps, store, executor, Notes(), "cpu", Limits())
    assert len(sweep.run().failures) == 1
    kept = store.read(quick[0].key)
    assert kept is not None and kept.status == "done"


def test_shared_work_that_fails_takes_only_its_own_cells(
    tmp_path: Path, quick: list[SuiteEntry]
) -> None:
    setup = quick[0].cell.setup

    def answer(step: Step, attempt: int) -> Report:
        if step.task == Prepare(setup):
            return StepCompleted(step.name, problem=Problem("no such main task", usage=True))
        return well(step, attempt)

    outcome, _ = swept(tmp_path, quick, Scripted(answer))
    lost = {cell.key for cell in quick if cell.cell.setup == setup}
    assert {failure.entry.key for failure in outcome.failures} == lost
    assert outcome.measured == len(quick) - len(lost)


def test_a_fatal_problem_ends_the_sweep(tmp_path: Path, quick: list[SuiteEntry]) -> None:
    executor = Scripted(
        lambda step, n: StepCompleted(
            step.name, problem=Problem("disk full", usage=True, fatal=True)
        )
    )
    with pytest.raises(UsageError, match="disk full; all finished cells are kept"):
        swept(tmp_path, quick, executor)
    assert executor.closed
    assert len(executor.submitted) <= 2


def test_a_cell_over_the_time_limit_is_not_retried(tmp_path: Path, quick: list[SuiteEntry]) -> None:
    slow = quick[0].key
    executor = Scripted(lambda step, n: None if step.name == slow else well(step, n))
    outcome, _ = swept(tmp_path, quick[:3], executor, Limits(seconds=0.0))
    assert executor.killed.count(slow) == 1
    messages = [f.message for f in outcome.failures if f.entry.key == slow]
    assert messages == ["it took longer than 0 min; give it less to do, or raise --time-limit"]


def test_a_cell_that_has_a_record_by_now_is_not_measured(
    tmp_path: Path, quick: list[SuiteEntry]
) -> None:
    """Another run wrote it after this run had chosen its cells."""
    Store(tmp_path).write(measured(quick[0]))
    executor = Scripted(well)
    outcome, _ = swept(tmp_path, quick, executor)
    assert quick[0].key not in executor.submitted
    assert (outcome.elsewhere, outcome.measured) == (1, len(quick) - 1)
    assert outcome.failures == []


def test_a_cell_that_failed_in_another_run_has_failed(
    tmp_path: Path, quick: list[SuiteEntry]
) -> None:
    cell = quick[0]
    Store(tmp_path).write(
        Record(
            key=cell.key,
            cell=cell.cell,
            attack_version=version_of(cell),
            status="failed",
            error="no luck",
        )
    )
    outcome, _ = swept(tmp_path, quick, Scripted(well))
    assert [failure.message for failure in outcome.failures] == ["no luck"]


def test_a_torn_record_that_another_run_quarantines_is_measured(
    tmp_path: Path, quick: list[SuiteEntry]
) -> None:
    stamps = {quick[0].key: (1, 2, 3)}
    steps, executor = steps_of(quick), Scripted(well)
    Sweep(steps, stamps, Store(tmp_path), executor, Notes(), "cpu", Limits()).run()
    assert Store(tmp_path).read(quick[0].key) is not None


def test_the_log_has_work_and_the_weights_are_of_the_plan_alone(
    tmp_path: Path, quick: list[SuiteEntry]
) -> None:
    """Otherwise each run would learn from the estimates of the last one."""
    steps = [replace(step, weight=7.0) for step in steps_of(quick)]
    notes = Notes()
    Sweep(steps, {}, Store(tmp_path), Scripted(well), notes, "cpu", Limits()).run()
    works = {step.work for step in steps if step.entry is None}
    assert {e.work for e in notes.events if isinstance(e, SharedDone)} == works


def test_answers_that_came_with_a_full_disk_are_kept(
    tmp_path: Path, quick: list[SuiteEntry]
) -> None:
    cells = [step for step in steps_of(quick) if step.entry is not None]

    def answer(step: Step, attempt: int) -> Report:
        if step.name == cells[0].name:
            return StepCompleted(step.name, problem=Problem("disk full", usage=True, fatal=True))
        return well(step, attempt)

    executor = Scripted(answer, at_once=len(quick))
    with pytest.raises(UsageError, match="disk full"):
        swept(tmp_path, quick, executor)
    going = [name for name in executor.submitted if Store(tmp_path).read(name) is not None]
    started = [name for name in executor.submitted if name in {cell.name for cell in cells}]
    assert set(going) == set(started) - {cells[0].name}


def test_reports_after_the_end_of_a_step_are_ignored(
    tmp_path: Path, quick: list[SuiteEntry]
) -> None:
    class Late(Scripted):
        def reports(self) -> Sequence[Report]:
            found = list(super().reports())
            late = [
                StepProgress(each.step, share=0.1)
                for each in found
                if isinstance(each, StepCompleted)
            ]
            again = [each for each in found if isinstance(each, StepCompleted)]
            return [*found, *late, *again]

    outcome, events = swept(tmp_path, quick, Late(well))
    assert outcome.measured == len(quick)
    assert sum(isinstance(event, CellDone) for event in events) == len(quick)
