"""`verified.json`: which records of a folder were measured again, and whether they agreed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from leakbench.base.files import quarantine as move_aside
from leakbench.base.files import read_regular, replacing
from leakbench.base.seeds import digest
from leakbench.records.identity import content_key
from leakbench.records.record import Record
from leakbench.records.signature import is_own, signature
from leakbench.records.store import Store

NAME = "verified.json"

Rule = Literal["equal", "interval"]
"""How a record and a new measurement are compared: `equal` up to rounding, or by the `interval` of
their difference."""

Outcome = Literal["agrees", "differs", "untestable"]
"""What came of measuring a record again; `untestable`: too few victims to compare a property."""


class Remeasured(BaseModel):
    """The outcome of measuring one record again.

    Attributes:
        content: the hash of the record's content then.
        when: the time of the new measurement, ISO 8601.
        rule: by which it was compared.
        agrees: whether the attack's success was compared for each property, and nothing differs.
        differences: a phrase each.
        untested: names of values that could not be compared.
        device, versions: of the new measurement.
        signature: of the machine that wrote this; empty if it did not sign.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    content: str
    when: str
    rule: Rule
    agrees: bool
    differences: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()
    device: str
    versions: dict[str, str]
    signature: str = ""

    @property
    def outcome(self) -> Outcome:
        """What came of it."""
        if self.agrees:
            return "agrees"
        return "differs" if self.differences else "untestable"

    def signed(self, key: str) -> Remeasured:
        """Return it with this machine's signature.

        Args:
            key: of the record.

        Raises:
            UsageError: the secret cannot be written to the cache.
        """
        return self.model_copy(update={"signature": signature(key, self._content())})

    def is_own(self, key: str) -> bool:
        """Whether this machine wrote it, of the record with this key."""
        return is_own(self.signature, key, self._content())

    def _content(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude={"signature"}, exclude_defaults=True)


class Verified(BaseModel):
    """The content of the file, by the record's key."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    remeasured: dict[str, Remeasured] = {}


@dataclass(frozen=True)
class Entries:
    """What a folder's file says of records that have not changed since; by key.

    Attributes:
        own: what this machine wrote.
        foreign: what it did not write, or anybody may have edited.
    """

    own: Mapping[str, Remeasured] = field(default_factory=dict)
    foreign: Mapping[str, Remeasured] = field(default_factory=dict)


def entries(folder: Path) -> Entries:
    """Return what a folder's file says of its records; those that changed since are left out.

    Args:
        folder: that a run had as `--out`, or of records.
    """
    return _held(read(folder), Store(records_of(folder)))


def verified(folder: Path) -> set[str]:
    """Return the keys of a run's records that agreed when this machine measured them again.

    Args:
        folder: that the run had as `--out`, or of records.
    """
    return {key for key, entry in entries(folder).own.items() if entry.agrees}


def _held(content: Verified, store: Store) -> Entries:
    """Return the entries of records that have the content that they had when measured again."""
    own: dict[str, Remeasured] = {}
    foreign: dict[str, Remeasured] = {}
    for key, entry in content.remeasured.items():
        record = store.read(key)
        if record is not None and content_hash(record) == entry.content:
            (own if entry.is_own(key) else foreign)[key] = entry
    return Entries(own, foreign)


def content_hash(record: Record) -> str:
    """Return a hash of a record's content.

    The cell is hashed by its key, as everywhere, and fields at their defaults are left out, so that
    a later version, which has more fields, gives an old record the same hash.
    """
    rest = record.model_dump(mode="json", exclude={"cell"}, exclude_defaults=True)
    return digest("record", content_key(record), rest)


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
        return Verified.model_validate_json(read_regular(home_of(folder) / NAME))
    except (OSError, ValueError, RecursionError):
        return None


def write(folder: Path, content: Mapping[str, Remeasured]) -> None:
    """Write a folder's file, replacing any other; one that cannot be read is moved aside.

    Raises:
        UsageError: the folder cannot be written to.
    """
    if _read(folder) is None:
        quarantine(folder)
    found = Verified(remeasured=dict(sorted(content.items()))).model_dump(mode="json")
    text = json.dumps(found, indent=1, ensure_ascii=False)
    with replacing(home_of(folder) / NAME) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def quarantine(folder: Path) -> Path | None:
    """Move a folder's file aside, since its origin is unknown; return its new path."""
    return move_aside(home_of(folder) / NAME, ".set-aside")


@dataclass(frozen=True)
class Carried:
    """What `carry` did.

    Attributes:
        agreeing: number of the folder's records that agreed when this machine measured them again.
        dropped: number of entries of other folders that this machine did not write.
    """

    agreeing: int
    dropped: int


def carry(sources: Iterable[Path], target: Path) -> Carried:
    """Copy what this machine wrote in other folders' files of a folder's records into its own file.

    What other machines wrote is dropped; the folder's own file keeps its entries, of all
    machines, as long as their records are unchanged.
    """
    store = Store(records_of(target))
    kept = _held(read(target), store)
    own = dict(kept.own)
    dropped = 0
    for source in sources:
        theirs = _held(read(source), store)
        dropped += len(theirs.foreign.keys() - kept.foreign.keys())
        for key, entry in theirs.own.items():
            if key not in own or own[key].when < entry.when:
                own[key] = entry
    if own or kept.foreign:
        write(target, {**kept.foreign, **own})
    return Carried(sum(entry.agrees for entry in own.values()), dropped)
