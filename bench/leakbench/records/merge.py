"""Uniting record folders, such as those of a sweep's shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from leakbench.base.errors import UsageError
from leakbench.experiments.defense_labels import defense_text
from leakbench.records import verified
from leakbench.records.record import Record
from leakbench.records.store import Store


@dataclass(frozen=True)
class Merged:
    """What came of it.

    Attributes:
        taken: records that were not there before, or took the place of a failed one.
        had: records that were there.
        unreadable: files that hold no record and were left where they are.
        verified: records that were measured again, as the folders say, and agreed.
    """

    taken: int
    had: int
    unreadable: tuple[Path, ...]
    verified: int


def merge(sources: Sequence[Path], out: Path) -> Merged:
    """Bring records of several folders into one; nothing is written if two contradict each other.

    Two records of a cell agree if their metrics and data are the same; time, device and versions
    may differ, and the first is kept. A failed one yields to one that is not.

    Args:
        sources: folders of runs (`--out`), or of records.
        out: a run's folder, as one of the first kind.

    Raises:
        UsageError: a folder holds no records, or records of one cell differ; names them.
    """
    target = Store(out / "records")
    found: dict[str, tuple[Record, Path]] = {}
    unreadable: list[Path] = []
    conflicts: list[str] = []
    had = 0
    for folder in [target.folder, *(_records_of(source) for source in sources)]:
        for path in sorted(folder.glob("*.json")):
            if path.name == verified.NAME:
                continue
            record = Store(folder).read(path.stem)
            if record is None or record.key != path.stem:
                unreadable.append(path)
                continue
            had += folder == target.folder
            other = found.get(record.key)
            if other is None or (other[0].status == "failed" != record.status):
                found[record.key] = (record, path)
            elif record.status != "failed" and _says(record) != _says(other[0]):
                conflicts.append(f"{_cell(record)} ({other[1]} and {path})")
    if conflicts:
        more = f", and {len(conflicts) - SHOWN} more" if len(conflicts) > SHOWN else ""
        named = "; ".join(conflicts[:SHOWN]) + more
        raise UsageError(
            f"{len(conflicts)} cells have records that differ: {named}; remove the wrong ones and "
            f"merge again (nothing was written)"
        )
    taken = [record for record, path in found.values() if path.parent != target.folder]
    for record in taken:
        target.write(record, finished=record.finished)
    return Merged(len(taken), had, tuple(unreadable), verified.carry(sources, out))


def _records_of(source: Path) -> Path:
    """Return the folder of records that a folder is, or holds.

    Raises:
        UsageError: it is neither.
    """
    for folder in (source / "records", source):
        if any(folder.glob("*.json")):
            return folder
    raise UsageError(f"{source} holds no records; name the folder that a run had as --out")


def _cell(record: Record) -> str:
    """Return a record's cell in a few words."""
    cell = record.cell
    place = f"{cell.attack} on {cell.dataset}, {cell.main_task}, B = {cell.batch_size}"
    return place if cell.defense == "none" else f"{place}, under {defense_text(cell)}"


def _says(record: Record) -> tuple[object, ...]:
    return record.metrics, record.status, record.fingerprint, record.knowledge


SHOWN = 5
"""Conflicts that a sentence names."""
