"""Estimates of how long steps take, from records and from the log of earlier runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from leakbench.base.errors import UsageError
from leakbench.base.files import read_regular
from leakbench.base.plugins import SharedPlugins
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.records.record import Record
from leakbench.sweep.gradient_timing import seconds_of_gradient
from leakbench.sweep.steps import TRAINING_COST, Measure, Step

DEFAULT_RATE = 0.002
"""Seconds per gradient evaluation of a small model on one core, if there are no records."""


ANY: tuple[object, ...] = ()
"""The kind that every cell belongs to."""


class Rates:
    """Seconds per unit of work, from the most similar cells that were measured.

    Args:
        records: of earlier cells.
        device: that steps will run on; records of other devices are ignored.
        log: of earlier runs, which holds the durations of trainings.
        timing: whether a gradient is timed of models that no earlier run has trained. Not in a
            process that answers signals: threads that PyTorch starts would take them.

    Attributes:
        learnt_from: number of records that were used.
    """

    def __init__(
        self,
        records: Iterable[Record],
        device: str,
        log: Path | None = None,
        *,
        timing: bool = False,
    ) -> None:
        self.learnt_from = 0
        self._seconds: dict[tuple[object, ...], float] = defaultdict(float)
        self._work: dict[tuple[object, ...], float] = defaultdict(float)
        self._plugins = SharedPlugins()
        for record in records:
            if record.cost is not None and record.device == device:
                self._learn(record.cell, record.cost.seconds)
        self._timing = timing and device == "cpu"
        self._trainings = _training_rates(log) if log is not None else {}

    def seconds(self, step: Step) -> float:
        """Return how many seconds a step will take one worker."""
        if isinstance(step.task, Measure):
            return step.work * self._rate(_kinds(step.task.cell))
        return step.work * self._rate_of_training(step.task.setup)

    def _rate_of_training(self, setup: Setup) -> float:
        known = self._trainings.get(setup.model)
        return known or self._timed(setup) or self._rate([ANY])

    def _timed(self, setup: Setup) -> float:
        """Return the rate that timing a gradient tells; 0 where none is timed."""
        if not self._timing:
            return 0.0
        try:
            return seconds_of_gradient(setup) / TRAINING_COST
        except UsageError:
            # The step will say why it cannot be done.
            return 0.0

    def _learn(self, cell: Cell, seconds: float) -> None:
        try:
            work = ResolvedCell.of(cell, self._plugins).work_of_run
        except UsageError:
            # Its plugin is not installed any more.
            return
        self.learnt_from += 1
        for key in _kinds(cell):
            self._seconds[key] += seconds
            self._work[key] += work

    def _rate(self, kinds: Iterable[tuple[object, ...]]) -> float:
        """Return the rate of the first kind with a measured cell."""
        known = next((kind for kind in kinds if self._work.get(kind)), None)
        return DEFAULT_RATE if known is None else self._seconds[known] / self._work[known]


def _kinds(cell: Cell) -> Iterator[tuple[object, ...]]:
    """Yield the kinds of a cell, the most specific first."""
    model = (cell.attack, cell.model, cell.image_size)
    yield (*model, cell.batch_size, cell.defense)
    yield (*model, cell.batch_size)
    yield model
    yield (cell.attack,)
    yield ANY


def _training_rates(log: Path) -> dict[str, float]:
    """Return seconds per unit of training, by the name of the model."""
    seconds: dict[str, float] = defaultdict(float)
    work: dict[str, float] = defaultdict(float)
    for event in logged(log):
        if event.get("event") != "SharedDone" or "models/" not in str(event.get("built")):
            continue
        # Somebody may have edited the log, and written anything.
        with suppress(KeyError, TypeError, ValueError, OverflowError):
            model, took, done = event["model"], float(event["seconds"]), float(event["work"])
            seconds[model], work[model] = seconds[model] + took, work[model] + done
    return {model: seconds[model] / work[model] for model in work if work[model]}


def logged(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log; lines that hold none are skipped."""
    try:
        lines = read_regular(log).decode("utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict):
            yield event
