"""All records of a folder: those that can be shown, and what is wrong with the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path

from leakbench.base.errors import UsageError
from leakbench.base.plugins import SharedPlugins
from leakbench.experiments.expansion import SuiteEntry
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.metrics.catalogue import spec_of
from leakbench.metrics.estimates import Estimate
from leakbench.metrics.spec import Leaf, leaves
from leakbench.records.compact import SharedParts, share_cell
from leakbench.records.measured import Measured
from leakbench.records.possible_values import are_within, is_within
from leakbench.records.record import Cost, Metrics, Record
from leakbench.records.store import Store, Unusable
from leakbench.records.verified import Entries, Outcome, Remeasured, entries


@dataclass(frozen=True)
class RecordFolder:
    """The records of a folder.

    Attributes:
        records: by key, in the order of keys.
        left_out: name of a file → why it is not among them.
        remeasured: by key, what came of measuring records again with `leakbench verify`, according
            to this machine, or to all that are trusted.
        claimed: the same according to other machines.
    """

    records: Mapping[str, Record]
    left_out: Mapping[str, str]
    remeasured: Mapping[str, Remeasured] = field(default_factory=dict)
    claimed: Mapping[str, Remeasured] = field(default_factory=dict)

    def measured(self, entries: Sequence[SuiteEntry]) -> list[Measured]:
        """Return the cells of a suite with their records, where there are any."""
        for entry in entries:
            record = self.records.get(entry.key)
            if record is not None:
                share_cell(record, entry.cell)
        return [
            Measured(entry, self.records.get(entry.key), self.remeasured.get(entry.key))
            for entry in entries
        ]

    def with_outcome(self, outcome: Outcome) -> list[str]:
        """Return the keys of the records of which that came when they were measured again."""
        return [key for key, entry in self.remeasured.items() if entry.outcome == outcome]


def read_records(out: Path, trust_verified: bool = False) -> RecordFolder:
    """Return the records of a run.

    A record is left out if it cannot be read, or if no measurement gives it, such as one whose cell
    was edited: its key is no longer the hash of its content. Numbers that were replaced by other
    possible ones are not noticed.

    Args:
        out: the folder that the run had as `--out`.
        trust_verified: whether to take entries of `verified.json` that another machine wrote for
            this one's.

    Raises:
        UsageError: it is no folder, or there is no record that can be shown.
    """
    folder = out / "records"
    if not out.is_dir():
        raise UsageError(f"{out} is no folder; name with --out the one that a run had as --out")
    store = Store(folder)
    records: dict[str, Record] = {}
    left_out: dict[str, str] = {}
    plugins, parts = SharedPlugins(), SharedParts()
    for name in store.names():
        record = store.examine(name.removesuffix(".json"))
        fault = record.why if isinstance(record, Unusable) else None
        if isinstance(record, Record):
            fault = _fault(record, plugins)
            if fault is None:
                records[record.key] = parts.compact(record)
        if fault is not None:
            left_out[name] = fault
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
    remeasured, claimed = _of_records(entries(out), records, trust_verified)
    return RecordFolder(records, left_out, remeasured, claimed)


def read_cells(
    out: Path, suite: Sequence[SuiteEntry], trust_verified: bool = False
) -> tuple[list[Measured], dict[str, str]]:
    """Return the cells of a suite with their records, and the files that are left out → why.

    Reads these records only, and leaves the same ones out as `read_records`.

    Args:
        out, trust_verified: see `read_records`.
    """
    store = Store(out / "records")
    records: dict[str, Record] = {}
    left_out: dict[str, str] = {}
    plugins, parts = SharedPlugins(), SharedParts()
    for key, cell in {entry.key: entry.cell for entry in suite}.items():
        found = store.examine(key)
        if isinstance(found, Record) and (fault := _fault(found, plugins)):
            found = Unusable(fault, "")
        if isinstance(found, Record):
            records[key] = parts.compact(found, cell)
        elif found is not None:
            left_out[store.path(key).name] = found.why
    remeasured, _ = _of_records(entries(out), records, trust_verified)
    return RecordFolder(records, left_out, remeasured).measured(suite), left_out


def _of_records(
    found: Entries, records: Mapping[str, Record], trust_verified: bool
) -> tuple[dict[str, Remeasured], dict[str, Remeasured]]:
    """Return what is trusted of records that were measured again, and what is only claimed."""
    own = {key: entry for key, entry in found.own.items() if key in records}
    foreign = {key: entry for key, entry in found.foreign.items() if key in records}
    if trust_verified:
        # In the order of keys, as if one machine had written all.
        return dict(sorted({**foreign, **own}.items())), {}
    return own, foreign


def _fault(record: Record, plugins: SharedPlugins) -> str | None:
    """Return why a record cannot be shown; None if it can."""
    try:
        ResolvedCell.of(record.cell, plugins)
    except UsageError as error:
        return str(error)
    if record.cost is not None and not _is_finite(record.cost):
        return "its cost is not finite"
    if record.metrics is None:
        if record.status == "failed":
            return None
        return f"its status is {record.status!r}, but it has no metrics"
    return _fault_of_metrics(record.metrics, record)


def _is_finite(cost: Cost) -> bool:
    numbers = (cost.seconds, cost.steps, cost.restarts or 0.0, cost.peak_memory_mib)
    return all(map(isfinite, numbers))


def _fault_of_metrics(metrics: Metrics, record: Record) -> str | None:
    lacking = set(record.cell.properties) - set(metrics.properties)
    if lacking:
        return f"it has no metrics of {', '.join(sorted(lacking))}"
    known = {"accuracy", "most_frequent_class"}
    known |= {"labelled_auxiliary"} if record.cell.auxiliary_dataset else set()
    known |= {"central"} if record.cell.central else set()
    if known - set(metrics.main_task):
        return f"it does not say {', '.join(sorted(known - set(metrics.main_task)))} of main_task"
    for leaf in leaves(metrics):
        if not _is_possible(leaf):
            return f"{leaf.path[-1]} cannot be {_text(leaf.value)}"
    return None


def _is_possible(leaf: Leaf) -> bool:
    """Whether a value is undefined, or in the range of its metric with its interval in order.

    An estimate may have no interval.
    """
    spec = spec_of(leaf.path)
    if spec is None:
        return True
    if not isinstance(leaf.value, Estimate):
        return is_within(leaf.value, spec)
    low, value, high = leaf.value.low, leaf.value.value, leaf.value.high
    if low is None and high is None:
        return value is None or is_within(value, spec)
    if low is None or value is None or high is None:
        return False
    return low <= high and are_within(leaf.value, spec)


def _text(value: Estimate | float) -> str:
    if not isinstance(value, Estimate):
        return f"{value}"
    return f"{value.value} [{value.low}, {value.high}]"
