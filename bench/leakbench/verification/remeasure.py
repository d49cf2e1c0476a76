"""Measuring cells of records again, as `leakbench run` would."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leakbench.base.errors import UsageError
from leakbench.evaluation.loading import check_available, data_fingerprint
from leakbench.experiments.cell import Cell
from leakbench.experiments.expansion import SuiteEntry
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics.lpips_weights import find_lpips_weights
from leakbench.records.record import Record
from leakbench.records.store import Store
from leakbench.sweep.events import CellDone, Event, State, Watcher
from leakbench.sweep.executor import Site
from leakbench.sweep.local import LocalExecutor
from leakbench.sweep.outcome import Limits
from leakbench.sweep.steps import steps_of
from leakbench.sweep.sweep import Sweep

DATA = {
    "dataset",
    "dataset_parameters",
    "image_size",
    "auxiliary_dataset",
    "auxiliary_dataset_parameters",
}
"""Fields of a cell that determine its data."""


class Sampler:
    """Samples records whose cells can be measured here.

    Attributes:
        unmeasurable: why others in the sample cannot be → how many.
    """

    def __init__(self, data_root: Path | None) -> None:
        self._data_root = data_root
        self._known: dict[str, str] = {}
        self.unmeasurable: dict[str, int] = {}

    def sample(self, records: Sequence[Record], count: int, seed: int) -> list[Record]:
        """Return `count` of the records at random; fewer if there are no more."""
        ordered = sorted(records, key=lambda record: record.key)
        random.Random(seed).shuffle(ordered)
        sample: list[Record] = []
        for record in ordered:
            if len(sample) == count:
                break
            if why := self._obstacle(record):
                self.unmeasurable[why] = self.unmeasurable.get(why, 0) + 1
            else:
                sample.append(record)
        return sample

    def _obstacle(self, record: Record) -> str:
        """Return why a record's cell cannot be measured here; empty if it can."""
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
    """Passes records on as soon as they are measured, and shows progress as a run does."""

    shown: Watcher
    store: Store
    hand: Callable[[Record], None]

    def on_event(self, event: Event) -> None:
        self.shown.on_event(event)
        if isinstance(event, CellDone) and (record := self.store.read(event.key)) is not None:
            self.hand(record)

    def on_progress(self, state: State) -> None:
        self.shown.on_progress(state)


def remeasure(
    records: Sequence[Record],
    data_root: Path | None,
    device: str,
    watcher: Watcher,
    hand: Callable[[Record], None],
) -> dict[str, str]:
    """Measure the cells of records again, in a worker process.

    Args:
        watcher: receives the progress.
        hand: called with each new record as soon as it is measured.

    Returns:
        Key → why its cell failed.

    Raises:
        KeyboardInterrupt: the user ended it.
    """
    steps = steps_of([_planned(record.cell, record.key) for record in records])
    site = Site(data_root.resolve() if data_root else None, device, find_lpips_weights(None))
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        handing = _Handing(watcher, store, hand)
        executor = LocalExecutor(site, workers=1, gpus=int(device == "cuda"))
        sweep = Sweep(
            steps, {}, store, executor, handing, device, Limits(), f"1 worker on {device}"
        )
        outcome = sweep.run()
    if outcome.interrupted:
        raise KeyboardInterrupt
    return {failure.entry.key: failure.message for failure in outcome.failures}


def _planned(cell: Cell, key: str) -> SuiteEntry:
    """Return a cell as the executor takes it; it is in no table."""
    return SuiteEntry(ResolvedCell.of(cell), key, group="", layout="table2", column=cell.attack)
