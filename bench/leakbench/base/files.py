"""Reading of files that others made, atomic writing, and quarantine of unreadable files."""

from __future__ import annotations

import errno
import io
import json
import os
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic_core import from_json
from safetensors import SafetensorError

from leakbench.base.errors import UsageError


class WriteError(UsageError):
    """A file cannot be written; the next attempt would fail in the same way."""


def read_regular(path: Path) -> bytes:
    """Return the content of a regular file.

    Folders, FIFOs, sockets and devices are refused at once: reading a FIFO waits for a writer, and
    reading a device may never end.

    Raises:
        OSError: the file is missing, is no regular file, or cannot be read; with `strerror`.
        ValueError: the path holds what no path can, such as NUL.
    """
    # With O_NONBLOCK, opening a FIFO does not wait either. Windows has neither FIFOs nor the flag.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    handle = os.open(path, flags)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", str(path))
        # At once, without asking again where the file ends: folders hold thousands of small files.
        content = os.read(handle, status.st_size + 1)
        if len(content) == status.st_size:
            return content
        with io.FileIO(handle, closefd=False) as file:
            return content + file.readall()
    finally:
        os.close(handle)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        OSError: see `read_regular`.
        ValueError: it is no JSON in UTF-8, is nested too deeply, or holds an integer of thousands
            of digits.
    """
    content = read_regular(path)
    with suppress(ValueError):
        # The same in a third of the time, but stricter, and its messages say less.
        return from_json(content)
    try:
        return json.loads(content.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


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


def write_replacing(path: Path, content: bytes) -> None:
    """Write a file that replaces `path`, atomically; as `replacing`, in a third of the time.

    For thousands of small files, each of which is opened once.

    Raises:
        WriteError: see `replacing`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        handle = _opened(temporary)
    except OSError as error:
        raise WriteError(f"cannot write to {path.parent}: {error.strerror}") from error
    try:
        with io.FileIO(handle, "w") as file:
            left = memoryview(content)
            while left:
                left = left[file.write(left) or 0 :]
            os.fsync(handle)
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise WriteError(f"cannot write {path}: {error.strerror}") from error
        raise


def _opened(path: Path) -> int:
    """Return the handle of a new file, whose folder is made where there is none."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    try:
        return os.open(path, flags, 0o600)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, flags, 0o600)


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
