"""The store of records: one JSON file per cell, written atomically."""

from __future__ import annotations

import errno
import json
import os
import warnings
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from leakbench.base.errors import UsageError
from leakbench.base.files import quarantine, read_regular, replacing, write_replacing
from leakbench.records.identity import misnamed
from leakbench.records.record import Record

Stamp = tuple[int, int, int]
"""Inode, modification time and size of a record's file."""


OF_THE_FOLDER = (errno.ENOTDIR, errno.ENAMETOOLONG)
"""Errors of reading a record that are not the record's."""


class BadRecordWarning(UserWarning):
    """A file holds no record that can be used, and is left out."""


@dataclass(frozen=True)
class Unusable:
    """A file that holds no record that can be used.

    Attributes:
        why: a phrase.
        ending: of its name once it is moved aside.
    """

    why: str
    ending: str


class Store:
    """The records of one folder.

    A record whose content does not make the key that its file is named by is as good as none: no
    method returns it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, key: str) -> Path:
        """Return the file of the record with this key."""
        return self.folder / f"{key}.json"

    def names(self) -> list[str]:
        """Return the names of the files that may hold records, sorted; none without a folder."""
        try:
            with os.scandir(self.folder) as found:
                return sorted(each.name for each in found if each.name.endswith(".json"))
        except (OSError, ValueError):
            # Also of a path with NUL in it.
            return []

    def examine(self, key: str) -> Record | Unusable | None:
        """Return the record with this key, or why its file holds none; None if there is no file.

        Raises:
            UsageError: the folder is none, or its name is one that no folder can have.
        """
        content = self.content(key)
        return examined(content, key) if isinstance(content, bytes) else content

    def content(self, key: str) -> bytes | Unusable | None:
        """Return what the file of a record holds, whatever it is; see `examine`."""
        try:
            return read_regular(self.path(key))
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in OF_THE_FOLDER or not self.folder.is_dir():
                raise UsageError(
                    f"{self.folder} cannot be read ({error.strerror}); name with --out the folder "
                    f"that a run had as --out"
                ) from None
            return Unusable(f"it cannot be read: {error.strerror}", ".unreadable")
        except ValueError:
            # Of a key with NUL in it.
            return NO_RECORD

    def read(self, key: str) -> Record | None:
        """Return the record with this key; None if it is missing or cannot be used."""
        found = self.examine(key)
        return found if isinstance(found, Record) else None

    def all(
        self, left_out: dict[str, str] | None = None, known: Container[str] = ()
    ) -> Iterator[Record]:
        """Yield every record that can be used, by key.

        Args:
            left_out: receives the names of the other files → why they hold no record.
            known: keys of records that are not read.
        """
        for name in self.names():
            if name.removesuffix(".json") in known:
                continue
            found = self.examine(name.removesuffix(".json"))
            if isinstance(found, Record):
                yield found
            elif found is not None and left_out is not None:
                left_out[name] = found.why

    def unusable(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the files of these keys that hold no record that can be used, and why."""
        found = {self.path(key).name: self.examine(key) for key in keys}
        return {name: each.why for name, each in found.items() if isinstance(each, Unusable)}

    def stamp(self, key: str) -> Stamp | None:
        """Return what differs between a file and one that replaces it; None if there is none."""
        try:
            status = self.path(key).stat()
        except OSError:
            # Also a link to itself, which a record replaces.
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def quarantine(self, key: str) -> Path | None:
        """Move a file without a usable record aside; return its new path, None if there is none.

        It is not deleted, since it may be a record of a later version.
        """
        found = self.examine(key)
        return quarantine(self.path(key), found.ending) if isinstance(found, Unusable) else None

    def copy(self, key: str, content: bytes) -> None:
        """Write the content of a record's file, which `examined` has accepted, as it is."""
        write_replacing(self.path(key), content)

    def write(self, record: Record) -> None:
        """Write a record, replacing any other with its key; one without a time was measured now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        stamped = record.model_copy(update={"finished": record.finished or now})
        text = json.dumps(stamped.model_dump(mode="json"), indent=1, ensure_ascii=False)
        with replacing(self.path(record.key)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")


NO_RECORD = Unusable("it holds no record that can be read", ".unreadable")


def examined(content: bytes, key: str) -> Record | Unusable:
    """Return the record with this key that a file holds, or why it holds none."""
    try:
        record = Record.model_validate_json(content)
        why = misnamed(record, key)
    except (ValidationError, ValueError, RecursionError):
        # Also integers of thousands of digits, and values nested too deeply to be hashed.
        return NO_RECORD
    return Unusable(why, ".misnamed") if why else record


def no_record(store: Store, name: str, suite_name: str) -> UsageError:
    """Return the error for a suite that has no record in a folder."""
    return UsageError(
        f"{store.folder} holds no record of suite {name!r} with these settings; run "
        f"`leakbench run {suite_name}` first or name another folder with --out"
    )


def warn_of(left_out: Mapping[str, str]) -> None:
    """Name files that are left out, in a warning each; the command line prints it as a line.

    Args:
        left_out: name of a file → why.
    """
    for name, why in left_out.items():
        warnings.warn(f"left out {name}: {why}", BadRecordWarning, stacklevel=2)
