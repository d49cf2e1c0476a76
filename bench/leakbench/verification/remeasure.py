"""Measuring cells of records again, as `leakbench run` would."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from leakbench.base.errors import UsageError
from leakbench.base.registry import DATASETS
from leakbench.evaluation.loading import check_available, data_fingerprint
from leakbench.evaluation.required_weights import WeightsHere
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


def drawn(records: Sequence[Record], count: int, seed: int) -> list[Record]:
    """Return `count` of the records, drawn at random; all if there are no more."""
    ordered = sorted(records, key=lambda record: record.key)
    return random.Random(seed).sample(ordered, min(count, len(ordered)))


class DataHere:
    """The data and weights on this machine, beside those that records were measured on.

    Args:
        data_root: the folder of data sets.
    """

    def __init__(self, data_root: Path | None) -> None:
        self._data_root = data_root
        # Nobody has said here that weights may be downloaded.
        self._weights = WeightsHere(data_root, "refused")
        self._known: dict[str, str] = {}

    def fault(self, record: Record) -> str:
        """Return what is wrong with the fingerprint of a record's data; empty if nothing is.

        The package generates embedded data, the same ones everywhere.
        """
        if not _is_embedded(record.cell):
            return ""
        here = self._fingerprint(record.cell)
        if here == record.fingerprint:
            return ""
        return (
            f"has the fingerprint {record.fingerprint} of data, and leakbench generates data with "
            f"the fingerprint {here} for its cell; one of them was changed"
        )

    def obstacle(self, record: Record) -> str:
        """Return why a record's cell cannot be measured here; empty if it can."""
        try:
            self._weights.require(record.cell.setup)
            here = self._fingerprint(record.cell)
        except UsageError as error:
            return str(error)
        if here != record.fingerprint:
            return (
                f"the data of {record.cell.dataset} here have the fingerprint {here}, those of the "
                f"record {record.fingerprint}"
            )
        return ""

    def _fingerprint(self, cell: Cell) -> str:
        """Return the fingerprint of a cell's data.

        Raises:
            UsageError: they are not here.
        """
        data = cell.model_dump_json(include=DATA)
        check_available(cell.setup, self._data_root)
        if data not in self._known:
            self._known[data] = data_fingerprint(cell.setup, self._data_root)
        return self._known[data]


def _is_embedded(cell: Cell) -> bool:
    """Whether the package generates all data of a cell."""
    names = filter(None, (cell.dataset, cell.auxiliary_dataset))
    return all(DATASETS.get(name).folder is None for name in names)


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
