"""Who measures which cell, where several runs share a folder of records."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from leakbench.base.files import WriteError

POSITIONS = 2**60
"""Cells are claimed at positions of the file; two of 50,000 share one with probability 1e-9."""


class Claims:
    """The cells that this process measures, as locks of single bytes of one file.

    The byte of a cell follows from its key. The system frees what a process had when it dies,
    however it dies; nothing is written into the file, and no file is left for each cell. Locks
    belong to the process: two of these in one process do not see each other.

    Args:
        folder: of the records.

    Raises:
        WriteError: the file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._path = path = folder / ".claims"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise WriteError(f"cannot write {path}: {error.strerror}") from error

    def take(self, key: str) -> bool:
        """Claim a cell; return whether no other process has it.

        Raises:
            WriteError: the file system has no locks.
        """
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _position(key))
        except (BlockingIOError, PermissionError):
            return False
        except OSError as error:
            raise WriteError(
                f"cannot lock {self._path}: {error.strerror}; put --out on a file system with locks"
            ) from error
        return True

    def give_back(self, key: str) -> None:
        """Let others have a cell."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _position(key))

    def close(self) -> None:
        """Let others have all cells."""
        os.close(self._file)


def _position(key: str) -> int:
    return int(key[:15], 16) % POSITIONS
