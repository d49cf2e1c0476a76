"""`verified.json`: which records of a folder were measured again, and whether they agreed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from leakbench.base.files import quarantine as move_aside
from leakbench.base.files import replacing
from leakbench.base.seeds import digest
from leakbench.records.record import Record
from leakbench.records.store import Store

NAME = "verified.json"

Rule = Literal["equal", "interval"]
"""How a record and a new measurement are compared: `equal` up to rounding, or each new value inside
the record's `interval`."""


class Remeasured(BaseModel):
    """The outcome of measuring one record again.

    Attributes:
        content: the hash of the record's content then.
        when: the time of the new measurement, ISO 8601.
        rule: by which it was compared.
        agrees: whether there were no differences.
        differences: a phrase each.
        device, versions: of the new measurement.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    content: str
    when: str
    rule: Rule
    agrees: bool
    differences: tuple[str, ...] = ()
    device: str
    versions: dict[str, str]


class Verified(BaseModel):
    """The content of the file, by the record's key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    remeasured: dict[str, Remeasured] = {}


def verified(folder: Path) -> set[str]:
    """Return the keys of a run's records that agreed when they were measured again.

    Records that have changed since, or are missing, are left out. Anyone can write the file: for a
    folder from elsewhere it proves nothing until `leakbench verify` has been run.

    Args:
        folder: that the run had as `--out`, or `results`.
    """
    entries = read(folder).remeasured
    store = Store(records_of(folder))
    return {key for key, entry in entries.items() if entry.agrees and _holds(store, key, entry)}


def _holds(store: Store, key: str, entry: Remeasured) -> bool:
    """Whether the record has the content that it had when it was measured again."""
    record = store.read(key)
    return record is not None and record.key == key and content_hash(record) == entry.content


def content_hash(record: Record) -> str:
    """Return a hash of a record's content.

    The cell is hashed by its key, as everywhere, and fields at their defaults are left out, so that
    a later version, which has more fields, gives an old record the same hash.
    """
    rest = record.model_dump(mode="json", exclude={"cell"}, exclude_defaults=True)
    return digest("record", record.cell.key(record.attack_version), rest)


def records_of(folder: Path) -> Path:
    """Return the folder of records that a folder holds, or is."""
    return folder / "records" if (folder / "records").is_dir() else folder


def home_of(folder: Path) -> Path:
    """Return the folder of `verified.json`: the run's, not that of its records."""
    return folder.parent if folder.name == "records" else folder


def read(folder: Path) -> Verified:
    """Return the content of a folder's file; empty if it is missing or cannot be read."""
    return _read(folder) or Verified()


def _read(folder: Path) -> Verified | None:
    try:
        return Verified.model_validate_json((home_of(folder) / NAME).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ValidationError):
        return None


def write(folder: Path, entries: Mapping[str, Remeasured]) -> None:
    """Write a folder's file, replacing any other; one that cannot be read is moved aside.

    Raises:
        UsageError: the folder cannot be written to.
    """
    if _read(folder) is None:
        quarantine(folder)
    content = Verified(remeasured=dict(sorted(entries.items()))).model_dump(mode="json")
    text = json.dumps(content, indent=1, ensure_ascii=False)
    with replacing(home_of(folder) / NAME) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def quarantine(folder: Path) -> Path | None:
    """Move a folder's file aside, since its origin is unknown; return its new path."""
    return move_aside(home_of(folder) / NAME, ".set-aside")


def carry(sources: Iterable[Path], target: Path) -> int:
    """Copy what other folders' files say of a folder's records into its own file.

    Returns:
        How many of the folder's records agreed when they were measured again.
    """
    store = Store(records_of(target))
    found = {
        key: entry
        for source in [*sources, target]
        for key, entry in read(source).remeasured.items()
        if _holds(store, key, entry)
    }
    if found:
        write(target, found)
    return len(verified(target))
