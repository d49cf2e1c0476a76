"""The cache folder: decoded images, trained models and property models, each built once.

Everything in it can be deleted at any time and is built again. Tensors are stored as safetensors
files, images as memory-mapped NumPy arrays; nothing is ever unpickled. Each file has a checksum: a
damaged file is built again, with a `DamagedFileWarning`. A file from a version without checksums is
used as long as it can be loaded, and gets its checksum then.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from platformdirs import user_cache_path
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from leakbench.base.checksums import has_checksum, matches_checksum, write_checksum
from leakbench.base.files import WriteError, replacing

Content = TypeVar("Content")
Loaded = TypeVar("Loaded")


class DamagedFileWarning(UserWarning):
    """A cached file was damaged and is built again."""


def cache_folder() -> Path:
    """Return $LEAKBENCH_CACHE, or the user's cache folder for leakbench."""
    chosen = os.environ.get("LEAKBENCH_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("leakbench")


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock of a path in the cache; the system releases it if this process dies."""
    file = cache_folder() / f"{path}.lock"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WriteError(
            f"cannot write to the cache {file.parent}: {error.strerror}; set LEAKBENCH_CACHE"
        ) from error
    with FileLock(file):
        yield


@dataclass
class Noted:
    """What was requested from the cache.

    Attributes:
        tensors: paths of all requested tensors.
        built: paths of tensors and arrays that were missing or damaged, and were built.
    """

    tensors: list[str] = field(default_factory=list)
    built: list[str] = field(default_factory=list)


_notes: ContextVar[Noted | None] = ContextVar("notes", default=None)


@contextmanager
def noting() -> Iterator[Noted]:
    """Yield a record of all requests within the context; enclosing contexts record them too."""
    noted, around = Noted(), _notes.get()
    token = _notes.set(noted)
    try:
        yield noted
    finally:
        _notes.reset(token)
        if around is not None:
            around.tensors += noted.tensors
            around.built += noted.built


def packed(paths: Iterable[str]) -> dict[str, bytes]:
    """Return the files stored under these paths, to send them to another machine."""
    return {path: _tensor_file(path).read_bytes() for path in paths}


def unpack(contents: Mapping[str, bytes]) -> None:
    """Store files that another machine has packed, except those that are already here."""
    for path, content in contents.items():
        if not is_cached(path):
            _write(_tensor_file(path), content, _save_bytes)


def store_file(path: str, content: bytes) -> None:
    """Store the content of a safetensors file under `path`, byte by byte, whatever is there.

    Raises:
        WriteError: the cache cannot be written to, or the disk is full.
    """
    _write(_tensor_file(path), content, _save_bytes)


def is_cached(path: str) -> bool:
    """Whether undamaged tensors are stored under `path`."""
    return _load(_tensor_file(path), load_file) is not None


def stored_tensors(path: str) -> dict[str, Tensor] | None:
    """Return the tensors stored under `path`; None if there are none, or they are damaged."""
    found = _load(_tensor_file(path), load_file)
    if found is not None:
        _noted().tensors.append(path)
    return found


def cached_tensors(path: str, build: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors stored under `path`; build and store them if missing or damaged.

    `build` runs at most once however many processes ask at the same time.

    Raises:
        WriteError: the cache cannot be written to, or the disk is full.
    """
    _noted().tensors.append(path)
    return _cached(path, _tensor_file(path), build, _save_tensors, load_file)


def cached_array(path: str, build: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the array stored under `path`, memory-mapped; build and store it as for tensors.

    Raises:
        WriteError: the cache cannot be written to, or the disk is full.
    """
    return _cached(path, cache_folder() / f"{path}.npy", build, _save_array, _map_array)


def _cached(
    path: str,
    file: Path,
    build: Callable[[], Content],
    save: Callable[[Content, Path], None],
    load: Callable[[Path], Loaded],
) -> Loaded:
    found = _load(file, load)
    if found is None:
        with locked(path):
            # Another process may have built it in the meantime.
            found = _load(file, load)
            if found is None:
                if file.exists():
                    message = f"cache file {file} was damaged and is made again"
                    warnings.warn(DamagedFileWarning(message), stacklevel=3)
                _noted().built.append(path)
                _write(file, build(), save)
                found = load(file)
    return found


def _load(file: Path, load: Callable[[Path], Loaded]) -> Loaded | None:
    """Return what a file holds; None if it is missing or damaged."""
    try:
        if not matches_checksum(file):
            return None
        found = load(file)
        if not has_checksum(file):
            # A folder that may only be read stays usable.
            with suppress(WriteError):
                write_checksum(file, file)
    except (FileNotFoundError, SafetensorError, ValueError, EOFError):
        return None
    return found


def _write(file: Path, content: Content, save: Callable[[Content, Path], None]) -> None:
    with replacing(file) as temporary:
        save(content, temporary)
        # Before the file itself: no process dies with a file written but no checksum.
        write_checksum(file, temporary)


def _save_tensors(tensors: Mapping[str, Tensor], file: Path) -> None:
    save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, file)


def _save_array(array: NDArray[np.uint8], file: Path) -> None:
    with file.open("wb") as stream:
        np.save(stream, array, allow_pickle=False)


def _save_bytes(content: bytes, file: Path) -> None:
    file.write_bytes(content)


def _map_array(file: Path) -> NDArray[np.uint8]:
    return np.load(file, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]


def _tensor_file(path: str) -> Path:
    return cache_folder() / f"{path}.safetensors"


def _noted() -> Noted:
    return _notes.get() or Noted()
