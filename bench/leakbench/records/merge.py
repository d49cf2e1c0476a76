"""Merging folders of records, such as those of a sweep's shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leakbench.base.errors import UsageError
from leakbench.experiments.defense_labels import defense_text
from leakbench.metrics.catalogue import spec_of
from leakbench.metrics.spec import leaves
from leakbench.records import verified
from leakbench.records.record import Metrics, Record
from leakbench.records.store import Store, Unusable, examined


@dataclass(frozen=True)
class Merged:
    """The outcome of a merge.

    Attributes:
        taken: number of records that are new, or have replaced a failed one.
        had: number of records that the folder had before.
        left_out: files that hold no record, or one whose content does not make its key → why. They
            stay where they are.
        verified: number of records that agreed when this machine measured them again.
        foreign: number of entries of the folders' `verified.json` that this machine did not write,
            and that were dropped.
    """

    taken: int
    had: int
    left_out: dict[Path, str]
    verified: int
    foreign: int


def merge(sources: Sequence[Path], out: Path) -> Merged:
    """Copy the records of several folders into one, as they are; or none if two contradict.

    Two records of a cell agree if their metrics and data are equal; metrics that only the later of
    two versions of leakbench computes, time, device and versions may differ. The first is kept. A
    record that failed is replaced by one that did not.

    Args:
        sources: folders of runs (`--out`), or of records.
        out: a run's folder, as one of the first kind.

    Raises:
        UsageError: a folder holds no records, or records of one cell differ; names them.
    """
    target = Store(out / "records")
    found: dict[str, _Found] = {}
    left_out: dict[Path, str] = {}
    conflicts: list[str] = []
    had = 0
    for folder in [target.folder, *(_records_of(source) for source in sources)]:
        for path in sorted(folder.glob("*.json")):
            if path.name == verified.NAME:
                continue
            content = Store(folder).content(path.stem)
            record = examined(content, path.stem) if isinstance(content, bytes) else content
            if isinstance(record, Unusable):
                left_out[path] = record.why
            if not isinstance(record, Record):
                continue
            assert isinstance(content, bytes)
            had += folder == target.folder
            other = found.get(record.key)
            if other is None or (other.failed and record.status != "failed"):
                found[record.key] = _Found(path, content, record.status == "failed")
            elif record.status != "failed" and not _agree(record, other.record()):
                conflicts.append(f"{_cell(record)} ({other.path} and {path})")
    if conflicts:
        more = f", and {len(conflicts) - SHOWN} more" if len(conflicts) > SHOWN else ""
        named = "; ".join(conflicts[:SHOWN]) + more
        raise UsageError(
            f"{len(conflicts)} cells have records that differ: {named}; remove the wrong ones and "
            f"merge again (nothing was written)"
        )
    taken = {key: each for key, each in found.items() if each.path.parent != target.folder}
    for key, each in taken.items():
        target.copy(key, each.content)
    carried = verified.carry(sources, out)
    return Merged(len(taken), had, left_out, carried.agreeing, carried.dropped)


@dataclass(frozen=True)
class _Found:
    """A file that holds a record, as text, which takes a fifth of a record's memory.

    Attributes:
        failed: whether that is one of a cell that failed.
    """

    path: Path
    content: bytes
    failed: bool

    def record(self) -> Record:
        """Return the record."""
        return Record.model_validate_json(self.content)


def _records_of(source: Path) -> Path:
    """Return the folder of records that a folder is, or has.

    Raises:
        UsageError: it is neither.
    """
    for folder in (source / "records", source):
        if any(folder.glob("*.json")):
            return folder
    raise UsageError(f"{source} holds no records; name the folder that a run had as --out")


def _cell(record: Record) -> str:
    """Return a short description of a record's cell."""
    cell = record.cell
    place = f"{cell.attack} on {cell.dataset}, {cell.main_task}, B = {cell.batch_size}"
    return place if cell.defense == "none" else f"{place}, under {defense_text(cell)}"


def _agree(one: Record, other: Record) -> bool:
    """Whether two records of one cell, neither of which failed, have the same content."""
    if one.metrics is None or other.metrics is None:
        same = one.metrics is other.metrics
    else:
        same = _agree_in_metrics(one.metrics, other.metrics)
    context = ((r.status, r.fingerprint, r.knowledge) for r in (one, other))
    return same and len(set(context)) == 1


def _agree_in_metrics(one: Metrics, other: Metrics) -> bool:
    ours, theirs = ({leaf.path: leaf.value for leaf in leaves(of)} for of in (one, other))
    for path in ours.keys() ^ theirs.keys():
        spec = spec_of(path)
        if spec is None or spec.optional != "later":
            return False
    return all(ours[path] == theirs[path] for path in ours.keys() & theirs.keys())


SHOWN = 5
"""Conflicts that the message names."""
