"""Measuring cells of records again, as `leakbench run` would."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cells import Cell
from bench.defense import individuals_in_update
from bench.errors import UsageError
from bench.executor import Watcher, run_cells
from bench.lpips_weights import find_lpips_weights
from bench.plugins import build
from bench.preparation import check_available, data_fingerprint
from bench.registry import ATTACKS
from bench.store import Record, Store
from bench.suite import Planned

DATA = {
    "dataset",
    "dataset_parameters",
    "image_size",
    "auxiliary_dataset",
    "auxiliary_dataset_parameters",
}
"""Fields of a cell that decide its data."""


class Drawer:
    """Draws records whose cells can be measured here.

    Attributes:
        unmeasurable: why others that were drawn could not → how many.
    """

    def __init__(self, data_root: Path | None) -> None:
        self._data_root = data_root
        self._known: dict[str, str] = {}
        self.unmeasurable: dict[str, int] = {}

    def draw(self, records: Sequence[Record], count: int, seed: int) -> list[Record]:
        """Return that many of the records, drawn from the seed; fewer if there are no more."""
        ordered = sorted(records, key=lambda record: record.key)
        random.Random(seed).shuffle(ordered)
        drawn: list[Record] = []
        for record in ordered:
            if len(drawn) == count:
                break
            if why := self._obstacle(record):
                self.unmeasurable[why] = self.unmeasurable.get(why, 0) + 1
            else:
                drawn.append(record)
        return drawn

    def _obstacle(self, record: Record) -> str:
        """Return why a record's cell cannot be measured here; empty where it can."""
        data = record.cell.model_dump_json(include=DATA)
        try:
            check_available(record.cell.setup, self._data_root)
            if data not in self._known:
                self._known[data] = data_fingerprint(record.cell.setup, self._data_root)
        except UsageError as error:
            return str(error)
        if self._known[data] != record.fingerprint:
            return (
                f"the data of {record.cell.dataset} here have the fingerprint {self._known[data]}, "
                f"those of the record {record.fingerprint}"
            )
        return ""


@dataclass(frozen=True)
class _Handing:
    """Hands records on as soon as they are measured, and shows progress as a run does."""

    shown: Watcher
    hand: Callable[[Record], None]

    def working(self, done: float, total: float) -> None:
        self.shown.working(done, total)

    def busy(self, what: str) -> None:
        self.shown.busy(what)

    def warned(self, warning: str) -> None:
        self.shown.warned(warning)

    def finished(self, planned: Planned, record: Record) -> None:
        self.shown.finished(planned, record)
        self.hand(record)


def remeasure(
    records: Sequence[Record],
    data_root: Path | None,
    device: str,
    watcher: Watcher,
    hand: Callable[[Record], None],
) -> dict[str, str]:
    """Measure the cells of records again, in worker processes.

    Args:
        watcher: is told how it goes on.
        hand: is given each new record as soon as it is there.

    Returns:
        Key → why its cell failed.
    """
    planned = [_planned(record.cell, record.key) for record in records]
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        handing = _Handing(watcher, hand)
        failures = run_cells(
            planned, store, data_root, device, 1, handing, find_lpips_weights(None)
        )
    return {failure.planned.key: failure.message for failure in failures}


def _planned(cell: Cell, key: str) -> Planned:
    """Return a cell as the executor takes it; it stands in no table."""
    attack = build(ATTACKS, cell.attack, cell.attack_parameters)
    work = cell.individuals * attack.work(individuals_in_update(cell))
    return Planned(cell=cell, key=key, group="", layout="table2", column=cell.attack, work=work)
