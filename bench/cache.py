"""The cache folder: decoded images, trained models and property models, each built once.

Everything in it can be deleted at any time and is built again. Tensors lie there as safetensors,
images as memory-mapped NumPy arrays; nothing is ever unpickled.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from platformdirs import user_cache_path
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.errors import UsageError


def cache_folder() -> Path:
    """Return $LEAKBENCH_CACHE, or the user's cache folder for leakbench."""
    chosen = os.environ.get("LEAKBENCH_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("leakbench")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path that takes the place of `path` at the end, whole or not at all.

    Raises:
        UsageError: the folder cannot be written to.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise UsageError(f"cannot write to {path.parent}: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock of a place in the cache; the system frees it if this process dies."""
    file = cache_folder() / f"{path}.lock"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"cannot write to the cache {file.parent}: {error.strerror}; set LEAKBENCH_CACHE"
        ) from error
    with FileLock(file):
        yield


def is_cached(path: str) -> bool:
    """Whether tensors are stored under `path`."""
    return (cache_folder() / f"{path}.safetensors").exists()


def cached_tensors(path: str, build: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the tensors stored under `path` in the cache, building them if there are none.

    `build` runs at most once however many processes ask at the same time.
    """
    file = cache_folder() / f"{path}.safetensors"
    if not file.exists():
        with locked(path):
            if not file.exists():
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
                array = build()
                with replacing(file) as temporary, temporary.open("wb") as stream:
                    np.save(stream, array, allow_pickle=False)
                del array
    return np.load(file, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
