"""All records of a folder: those that can be shown, and of the others what is wrong with them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leakbench.base.errors import UsageError
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.experiments.suite import SuiteEntry
from leakbench.metrics.estimates import Estimate
from leakbench.records.measured import Measured
from leakbench.records.possible_values import leaves
from leakbench.records.record import Metrics, Record
from leakbench.records.store import Store
from leakbench.records.verified import verified


@dataclass(frozen=True)
class RecordFolder:
    """What a folder of records holds.

    Attributes:
        records: by key, in the order of keys.
        left_out: name of a file → why it is not among them.
        remeasured: keys of those that `leakbench verify` has measured again, and that agreed.
    """

    records: Mapping[str, Record]
    left_out: Mapping[str, str]
    remeasured: frozenset[str] = frozenset()

    def measured(self, entry: Sequence[SuiteEntry]) -> list[Measured]:
        """Return cells of a suite with those of these records that they have."""
        return [Measured(each, self.records.get(each.key)) for each in entry]


def read_records(out: Path) -> RecordFolder:
    """Return the records of a run.

    A record is left out if it cannot be read, or if it cannot have been measured as it stands, such
    as one whose cell was edited: its key is no longer the hash of its content. Numbers that were
    changed for others that can be are not noticed.

    Args:
        out: the folder that the run had as `--out`.

    Raises:
        UsageError: it is no folder, or there is no record that can be shown.
    """
    folder = out / "records"
    if not out.is_dir():
        raise UsageError(f"{out} is no folder; name with --out the one that a run had as --out")
    store = Store(folder)
    records: dict[str, Record] = {}
    left_out: dict[str, str] = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = store.read(path.stem)
        except OSError as error:
            left_out[path.name] = f"it cannot be read: {error.strerror}"
            continue
        fault = "it holds no record that can be read" if record is None else _fault(record, path)
        if record is None or fault is not None:
            left_out[path.name] = str(fault)
        else:
            records[record.key] = record
    if left_out and not records:
        name, fault = next(iter(left_out.items()))
        raise UsageError(
            f"none of the {len(left_out)} records in {folder} can be shown ({name}: {fault}); "
            f"measure them again with `leakbench run`"
        )
    if not records:
        raise UsageError(
            f"{folder} holds no records; name with --out the folder that a run had as --out"
        )
    return RecordFolder(records, left_out, frozenset(verified(out) & records.keys()))


def _fault(record: Record, path: Path) -> str | None:
    """Return why a record cannot be shown; None where nothing speaks against it."""
    if record.key != path.stem:
        return f"the record in it has another key, {record.key}"
    try:
        ResolvedCell.of(record.cell)
    except UsageError as error:
        return str(error)
    if record.key != record.cell.key(record.attack_version):
        return "its key is not that of its content, which somebody has changed"
    if record.metrics is None:
        if record.status == "failed":
            return None
        return f"its status is {record.status!r}, but it has no metrics"
    return _fault_of_metrics(record.metrics, record)


def _fault_of_metrics(metrics: Metrics, record: Record) -> str | None:
    lacking = set(record.cell.properties) - set(metrics.properties)
    if lacking:
        return f"it has no metrics of {', '.join(sorted(lacking))}"
    known = {"accuracy", "most_frequent_class"}
    known |= {"labelled_auxiliary"} if record.cell.auxiliary_dataset else set()
    if known - set(metrics.main_task):
        return f"it does not say {', '.join(sorted(known - set(metrics.main_task)))} of main_task"
    for path, estimate in leaves(metrics):
        name = path.rpartition(".")[2]
        if isinstance(estimate, Estimate) and not _is_possible(estimate, share=name in SHARES):
            return f"{name} cannot be {estimate.value} [{estimate.low}, {estimate.high}]"
    return None


SHARES = {"accuracy", "balanced_accuracy", "auc", "exact", "recognisable", "found", "utility"}
"""Metrics that lie between 0 and 1."""


def _is_possible(estimate: Estimate, share: bool) -> bool:
    """Whether an estimate is undefined, or finite numbers in order; a share's between 0 and 1."""
    numbers = [n for n in (estimate.low, estimate.value, estimate.high) if n is not None]
    if not numbers:
        return True
    if len(numbers) < 3 or not all(math.isfinite(number) for number in numbers):
        return False
    inside = not share or (min(numbers) >= 0 and max(numbers) <= 1)
    return inside and numbers[0] <= numbers[2]
