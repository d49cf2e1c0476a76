"""The store of records: one JSON file per cell, written atomically."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from leakbench.base.errors import UsageError
from leakbench.base.files import quarantine, replacing
from leakbench.records.record import Record

Stamp = tuple[int, int, int]
"""Inode, modification time and size of a record's file."""


class Store:
    """The records of one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Return the file of the record with this key."""
        return self.folder / f"{key}.json"

    def read(self, key: str) -> Record | None:
        """Return the record with this key; None if it is missing or cannot be read."""
        try:
            return Record.model_validate_json(self.path(key).read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def all(self) -> Iterator[Record]:
        """Yield every record that can be read, by key."""
        for name in sorted(path.name for path in self.folder.glob("*.json")):
            if (record := self.read(name.removesuffix(".json"))) is not None:
                yield record

    def stamp(self, key: str) -> Stamp | None:
        """Return what differs between a file and one that replaces it; None if there is none."""
        try:
            status = self.path(key).stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def quarantine(self, key: str) -> Path | None:
        """Move a file that holds no record aside; return its new path, None if there is none.

        It is not deleted, since it may be a record of a later version.
        """
        path = self.path(key)
        if not path.exists() or self.read(key) is not None:
            return None
        return quarantine(path, ".unreadable")

    def write(self, record: Record, finished: str | None = None) -> None:
        """Write a record, replacing any other with its key.

        Args:
            finished: when it was measured; now if None.
        """
        now = datetime.now(UTC).isoformat(timespec="seconds")
        stamped = record.model_copy(update={"finished": finished or now})
        text = json.dumps(stamped.model_dump(mode="json"), indent=1, ensure_ascii=False)
        with replacing(self.path(record.key)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


def no_record(store: Store, name: str, suite_name: str) -> UsageError:
    """Return the error for a suite that has no record in a folder."""
    return UsageError(
        f"{store.folder} holds no record of suite {name!r} with these settings; run "
        f"`leakbench run {suite_name}` first or name another folder with --out"
    )
