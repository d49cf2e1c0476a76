"""Locks that keep several runs from measuring the same cell of a shared folder of records."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from leakbench.base.files import WriteError

POSITIONS = 2**60
"""Cells are claimed at positions of the file; two of 50,000 share one with probability 1e-9."""


class Claims:
    """The cells that this process is measuring, as locks on single bytes of one file.

    A cell's key determines its byte. The system releases the locks of a process that dies;
    nothing is written into the file, and no file per cell remains. Locks belong to the process:
    two `Claims` in one process do not exclude each other.

    Args:
        folder: of the records.

    Raises:
        WriteError: the file cannot be created.
    """

    def __init__(self, folder: Path) -> None:
        self._path = path = folder / ".claims"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise WriteError(f"cannot write {path}: {error.strerror}") from error

    def take(self, key: str) -> bool:
        """Claim a cell; return False if another process has claimed it.

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

    def release(self, key: str) -> None:
        """Release a cell."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, _position(key))

    def close(self) -> None:
        """Release all cells."""
        os.close(self._file)


def _position(key: str) -> int:
    return int(key[:15], 16) % POSITIONS
