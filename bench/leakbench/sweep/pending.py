"""Selection of the cells of a suite that are to be measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from leakbench.base.choices import Redo
from leakbench.base.errors import UsageError
from leakbench.experiments.cell import Cell
from leakbench.experiments.expansion import SuiteEntry
from leakbench.records.compact import SharedParts
from leakbench.records.record import Record
from leakbench.records.store import Stamp, Store, Unusable

Reason = Literal["new", "failed", "stale", "wanted"]
"""Why a cell is measured: it has no record, it failed, its record is stale, or `--redo all`."""


@dataclass(frozen=True)
class Pending:
    """A cell to measure.

    Attributes:
        stamp: of the file that holds its present record; None if there is no file.
        record: its present record; None if there is none that can be used.
    """

    entry: SuiteEntry
    reason: Reason
    stamp: Stamp | None
    record: Record | None


@dataclass(frozen=True)
class Selection:
    """The cells of a suite, divided into those to measure and those to keep.

    Attributes:
        pending: cells to measure.
        kept: records of the others.
        unusable: name of a file that holds no record that can be used → why.
    """

    pending: list[Pending] = field(default_factory=list)
    kept: list[Record] = field(default_factory=list)
    unusable: dict[str, str] = field(default_factory=dict)

    def records(self) -> dict[str, Record]:
        """Return the cells' present records, by key."""
        held = (each.record for each in self.pending)
        return {record.key: record for record in (*self.kept, *held) if record is not None}


def select_cells(
    cells: Sequence[SuiteEntry],
    store: Store,
    data_root: Path | None,
    wants_lpips: bool,
    redo: Redo,
) -> Selection:
    """Divide cells into those to measure and those whose record is kept.

    Args:
        cells: without duplicates.
        wants_lpips: whether a record is stale if its images have no LPIPS.
        redo: which cells with a record are measured again.
    """
    found = Selection()
    fingerprints, parts = _Fingerprints(data_root), SharedParts()
    for entry in cells:
        # Before the record is read, so that what is written in between counts as another run's.
        stamp = store.stamp(entry.key)
        read = store.examine(entry.key)
        if isinstance(read, Unusable):
            found.unusable[store.path(entry.key).name] = read.why
        record = parts.compact(read, entry.cell) if isinstance(read, Record) else None
        reason = _reason(record, fingerprints, wants_lpips, redo)
        if reason is None:
            assert record is not None
            found.kept.append(record)
        else:
            found.pending.append(Pending(entry, reason, stamp, record))
    return found


def _reason(
    record: Record | None, fingerprints: _Fingerprints, wants_lpips: bool, redo: Redo
) -> Reason | None:
    if record is None:
        return "new"
    if record.status == "failed":
        return None if redo == "never" else "failed"
    if redo == "all":
        return "wanted"
    if redo != "stale":
        return None
    images = record.metrics.images if record.metrics else None
    lacks_lpips = wants_lpips and images is not None and images.lpips is None
    changed = fingerprints.of(record.cell) not in (None, record.fingerprint)
    return "stale" if lacks_lpips or changed else None


class _Fingerprints:
    """The fingerprints of cells' data; each data set is read once."""

    def __init__(self, data_root: Path | None) -> None:
        self._data_root = data_root
        self._known: dict[str, str | None] = {}

    def of(self, cell: Cell) -> str | None:
        """Return the fingerprint of the cell's data; None if they are not available."""
        from leakbench.evaluation.loading import check_available, data_fingerprint

        own = f"{cell.dataset} {cell.dataset_parameters} {cell.image_size}"
        key = f"{own} {cell.auxiliary_dataset} {cell.auxiliary_dataset_parameters}"
        if key not in self._known:
            try:
                check_available(cell.setup, self._data_root)
            except UsageError:
                self._known[key] = None
            else:
                self._known[key] = data_fingerprint(cell.setup, self._data_root)
        return self._known[key]
