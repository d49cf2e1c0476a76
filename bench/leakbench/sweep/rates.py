"""How long steps take, learnt from records and from the log of earlier runs."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from leakbench.base.errors import UsageError
from leakbench.experiments.cell import Cell
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.records.record import Record
from leakbench.sweep.steps import Measure, Step

UNTAUGHT = 0.002
"""Seconds of a gradient evaluation of a small model on one core, if there is nothing to learn."""


ANY: tuple[object, ...] = ()
"""The kind of all cells."""


class Rates:
    """Seconds of a unit of work, by how much alike cells are.

    Args:
        records: of earlier cells.
        device: on which steps will be done; records of others teach nothing.
        log: of earlier runs, which tells how long trainings took.
    """

    def __init__(self, records: Iterable[Record], device: str, log: Path | None = None) -> None:
        self.learnt_from = 0
        self._seconds: dict[tuple[object, ...], float] = defaultdict(float)
        self._work: dict[tuple[object, ...], float] = defaultdict(float)
        for record in records:
            if record.cost is not None and record.device == device:
                self._learn(record.cell, record.cost.seconds)
        self._training = _training_rate(log) if log is not None else None

    def seconds(self, step: Step) -> float:
        """Return how long a step will take one worker."""
        if isinstance(step.task, Measure):
            return step.work * self._rate(_from_alike_to_any(step.task.cell))
        return step.work * (self._training or self._rate([ANY]))

    def _learn(self, cell: Cell, seconds: float) -> None:
        try:
            work = work_of(cell)
        except UsageError:
            # Its plugin is not there any more.
            return
        self.learnt_from += 1
        for key in _from_alike_to_any(cell):
            self._seconds[key] += seconds
            self._work[key] += work

    def _rate(self, kinds: Iterable[tuple[object, ...]]) -> float:
        """Return the rate of the first kind of cells of which one is known."""
        known = next((kind for kind in kinds if self._work.get(kind)), None)
        return UNTAUGHT if known is None else self._seconds[known] / self._work[known]


def work_of(cell: Cell) -> float:
    """Return a cell's work, in gradient evaluations.

    Raises:
        UsageError: its attack or defense is not there.
    """
    return ResolvedCell.of(cell).work


def _from_alike_to_any(cell: Cell) -> Iterator[tuple[object, ...]]:
    model = (cell.attack, cell.model, cell.image_size)
    yield (*model, cell.batch_size, cell.defense)
    yield (*model, cell.batch_size)
    yield model
    yield (cell.attack,)
    yield ANY


def _training_rate(log: Path) -> float | None:
    """Return seconds of a unit of training; None if no run has trained a model."""
    seconds = work = 0.0
    for event in logged(log):
        built = event.get("built", ())
        if event.get("event") == "SharedDone" and any(b.startswith("models/") for b in built):
            seconds, work = seconds + event["seconds"], work + event["work"]
    return seconds / work if work else None


def logged(log: Path) -> Iterator[dict[str, Any]]:
    """Yield the events of a log; a line that was torn is left out."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return
    for line in lines:
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict):
            yield event
