"""The steps that a run of a suite would do, and an estimate of its time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from leakbench.base.documents import Document, TextTable
from leakbench.base.durations import duration
from leakbench.base.errors import UsageError
from leakbench.evaluation.loading import load_individuals
from leakbench.evaluation.required_weights import WeightsHere
from leakbench.evaluation.shared_training import is_trained
from leakbench.federation.backbones.weight_sources import NotDownloadedError
from leakbench.metrics.formatting import counted
from leakbench.sweep.pending import Pending, Reason
from leakbench.sweep.rates import Rates
from leakbench.sweep.steps import Measure, Prepare, Step, Train, steps_of

REASONS: dict[Reason, str] = {
    "new": "have no record",
    "failed": "failed",
    "stale": "are stale",
    "wanted": "are wanted again",
}


@dataclass(frozen=True)
class Plan:
    """The steps that a run would do.

    Attributes:
        cells: number of cells of the suite, with or without a record.
        pending: cells to measure.
        steps: the measurements, and the work that they share.
        cached: names of shared steps whose weights are in the cache.
        lacking: name of a shared step → why it cannot be done.
        seconds: name of a step → its estimated duration on one worker; 0 if it is cached.
        learnt_from: number of records that the estimate is based on.
    """

    cells: int
    pending: Sequence[Pending]
    steps: Sequence[Step]
    cached: frozenset[str]
    lacking: dict[str, str]
    seconds: dict[str, float]
    learnt_from: int


def plan(
    cells: int,
    pending: Sequence[Pending],
    rates: Rates,
    data_root: Path | None,
    device: str,
) -> Plan:
    """Return what a run would do; reads data sets, to find which weights are in the cache."""
    steps = steps_of([each.entry for each in pending])
    cached, lacking = set(), {}
    fingerprints: dict[str, str] = {}
    weights = WeightsHere(data_root, "refused")
    for step in steps:
        if isinstance(step.task, Measure):
            continue
        setup = step.task.setup
        data = f"{setup.dataset} {setup.dataset_parameters} {setup.image_size}"
        try:
            # A run would download what the user says to download.
            with suppress(NotDownloadedError):
                weights.require(setup)
            if data not in fingerprints:
                fingerprints[data] = load_individuals(setup, data_root).fingerprint
        except UsageError as error:
            lacking[step.name] = str(error)
        else:
            if _is_cached(step.task, fingerprints[data], device):
                cached.add(step.name)
    seconds = {s.name: 0.0 if s.name in cached else rates.seconds(s) for s in steps}
    return Plan(cells, pending, steps, frozenset(cached), lacking, seconds, rates.learnt_from)


def _is_cached(task: Prepare | Train, data: str, device: str) -> bool:
    if isinstance(task, Train):
        return is_trained(task.setup, data, device, task.defense, task.central)
    return is_trained(task.setup, data, device)


def plan_document(plan: Plan, workers: int, device: str) -> Document:
    """Return a plan as sentences and tables."""
    reasons = Counter(each.reason for each in plan.pending)
    parts = [f"{count} {REASONS[reason]}" for reason, count in reasons.items()]
    done = plan.cells - len(plan.pending)
    summary = f"{counted(plan.cells, 'cell')}: {', '.join([f'{done} have their record', *parts])}."
    if not plan.pending:
        return [f"{summary} There is nothing to measure."]
    tables = [table for table in (_columns(plan), _shared(plan)) if table.rows]
    return [summary, *tables, *_lacking(plan), _estimate(plan, workers, device)]


def _columns(plan: Plan) -> TextTable:
    counts: Counter[str] = Counter()
    seconds: dict[str, float] = defaultdict(float)
    for step in plan.steps:
        if step.entry is not None:
            counts[step.entry.column] += 1
            seconds[step.entry.column] += plan.seconds[step.name]
    rows = [[name, str(counts[name]), duration(seconds[name])] for name in counts]
    return TextTable(["attack", "to measure", "on one worker"], rows)


def _shared(plan: Plan) -> TextTable:
    needed = Counter(need for step in plan.steps for need in step.needs)
    rows = []
    for step in plan.steps:
        if step.entry is None:
            seconds = duration(plan.seconds[step.name])
            state = "in the cache" if step.name in plan.cached else seconds
            state = "cannot be done" if step.name in plan.lacking else state
            rows.append([step.description, str(needed[step.name]), state])
    headings = ["shared work", "for cells", "on one worker"]
    return TextTable(headings, rows, ["on one worker", "for cells"], ["shared work"])


def _lacking(plan: Plan) -> list[str]:
    return [f"Cannot be done: {sentence}" for sentence in dict.fromkeys(plan.lacking.values())]


def _estimate(plan: Plan, workers: int, device: str) -> str:
    left = [step for step in plan.steps if not plan.lacking.keys() & {step.name, *step.needs}]
    total = sum(plan.seconds[step.name] for step in left)
    # Never less than a cell and the shared work that it waits for, one after the other.
    steps = {step.name: step for step in plan.steps}
    longest = max((_chain(plan, steps, step) for step in left), default=0.0)
    seconds = max(total / workers, longest)
    learnt = (
        f"learnt from {counted(plan.learnt_from, 'record')}"
        if plan.learnt_from
        else "a guess, since there are no records of this device to learn from"
    )
    rest = " for the rest" if plan.lacking else ""
    return (
        f"About {duration(seconds)} with {counted(workers, 'worker')} on {device}{rest}, {learnt}."
    )


def _chain(plan: Plan, steps: Mapping[str, Step], step: Step) -> float:
    before = max((_chain(plan, steps, steps[need]) for need in step.needs), default=0.0)
    return before + plan.seconds[step.name]
