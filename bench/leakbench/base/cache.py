"""The cache folder: decoded images, trained models and property models, each built once.

Everything in it can be deleted at any time and is built again. Tensors lie there as safetensors,
images as memory-mapped NumPy arrays; nothing is ever unpickled.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from platformdirs import user_cache_path
from safetensors.torch import load_file, save_file
from torch import Tensor

from leakbench.base.files import WriteError, replacing


def cache_folder() -> Path:
    """Return $LEAKBENCH_CACHE, or the user's cache folder for leakbench."""
    chosen = os.environ.get("LEAKBENCH_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("leakbench")


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock of a place in the cache; the system frees it if this process dies."""
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
    """What was asked of the cache.

    Attributes:
        tensors: paths of all tensors that were asked for.
        built: paths of tensors and arrays that were not there.
    """

    tensors: list[str] = field(default_factory=list)
    built: list[str] = field(default_factory=list)


_notes: ContextVar[Noted | None] = ContextVar("notes", default=None)


@contextmanager
def noting() -> Iterator[Noted]:
    """Yield notes, which are taken until the end of the context; those around it get them too."""
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
    """Return what is stored under these paths, to bring it to another machine."""
    return {path: (cache_folder() / f"{path}.safetensors").read_bytes() for path in paths}


def unpack(contents: Mapping[str, bytes]) -> None:
    """Store what another machine has packed, where nothing is stored yet."""
    for path, content in contents.items():
        file = cache_folder() / f"{path}.safetensors"
        if not file.exists():
            with replacing(file) as temporary:
                temporary.write_bytes(content)


def is_cached(path: str) -> bool:
    """Whether tensors are stored under `path`."""
    return (cache_folder() / f"{path}.safetensors").exists()


def cached_tensors(path: str, build: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors stored under `path` in the cache, building them if there are none.

    `build` runs at most once however many processes ask at the same time.
    """
    file = cache_folder() / f"{path}.safetensors"
    noted = _notes.get() or Noted()
    noted.tensors.append(path)
    if not file.exists():
        with locked(path):
            if not file.exists():
                noted.built.append(path)
                tensors = {name: t.detach().cpu().contiguous() for name, t in build().items()}
                with replacing(file) as temporary:
                    save_file(tensors, temporary)
    return load_file(file)


def cached_array(path: str, build: Callable[[], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Return the array stored under `path` in the cache, memory-mapped, building it if needed."""
    file = cache_folder() / f"{path}.npy"
    if not file.exists():
        with locked(path):
            if not file.exists():
                (_notes.get() or Noted()).built.append(path)
                array = build()
                with replacing(file) as temporary, temporary.open("wb") as stream:
                    np.save(stream, array, allow_pickle=False)
                del array
    return np.load(file, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
