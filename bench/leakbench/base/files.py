"""Atomic writing of files, and quarantine of unreadable ones."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from leakbench.base.errors import UsageError


class WriteError(UsageError):
    """A file cannot be written; the next attempt would fail in the same way."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` at the end of the context, atomically.

    Raises:
        WriteError: the folder cannot be written to, or the disk is full.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise WriteError(f"cannot write to {path.parent}: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        # NumPy counts bytes where the system has words.
        why = error.strerror or f"{error}; the disk may be full"
        raise WriteError(f"cannot write {path}: {why}") from error
    except SafetensorError as error:
        raise WriteError(f"cannot write {path}: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def quarantine(path: Path, ending: str) -> Path | None:
    """Rename an unreadable file, so that its content is kept; return its new path.

    Args:
        ending: replaces its suffix, with a number if that name exists.

    Returns:
        None if there is no such file, or another process has moved it.

    Raises:
        UsageError: it cannot be moved.
    """
    aside, number = path.with_suffix(ending), 1
    while aside.exists():
        number += 1
        aside = path.with_suffix(f"{ending}-{number}")
    try:
        return path.rename(aside)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"cannot move {path}: {error.strerror}") from error
