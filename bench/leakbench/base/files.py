"""Files that are written whole or not at all, and files that are moved out of the way."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from leakbench.base.errors import UsageError


class WriteError(UsageError):
    """A file cannot be written: what is tried next would end in the same way."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` at the end, whole or not at all.

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
    """Rename a file that must not stay, so that nothing in it is lost; return where it is now.

    Args:
        ending: that it gets in place of its own, with a number if that is taken.

    Returns:
        None if there is no such file, or another process was quicker.

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
