"""Tensors that wait in a file until somebody asks for them, where memory cannot hold all."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leakbench.base.cache import cache_folder
from leakbench.base.files import WriteError


@dataclass(frozen=True)
class _Place:
    """Where a tensor is in the file, and what it was: its numbers are in the order of memory."""

    start: int
    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device


IN_MEMORY = 2**28
"""Bytes up to which a store needs no file."""


class TensorStore:
    """A store of tensors that moves to a file in the cache folder when it grows large.

    The file has no name: the system removes it as soon as nobody refers to it, and if the process
    dies.

    Raises:
        WriteError: the cache folder cannot be written to.
    """

    def __init__(self) -> None:
        folder = cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise WriteError(f"cannot write to {folder}: {error.strerror}") from error
        self._file = tempfile.SpooledTemporaryFile(IN_MEMORY, dir=str(folder))  # noqa: SIM115
        self._end = 0
        # Attacks may read in several threads.
        self._turn = threading.Lock()

    def keep(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Write tensors; return a mapping that reads them, see `StoredTensors`.

        Raises:
            WriteError: the disk is full.
        """
        return StoredTensors(self, {name: self._write(each) for name, each in tensors.items()})

    def _write(self, tensor: Tensor) -> _Place:
        # A copy has no gaps, and keeps the order of its axes in memory.
        dense = tensor.detach().cpu().clone()
        flat = dense.as_strided((dense.numel(),), (1,)).view(torch.uint8)
        place = _Place(self._end, dense.shape, dense.stride(), dense.dtype, tensor.device)
        try:
            with self._turn:
                self._file.seek(place.start)
                self._file.write(flat.numpy().data)
                self._file.flush()
        except OSError as error:
            raise WriteError(
                f"cannot write updates to {cache_folder()}: {error.strerror}"
            ) from error
        self._end += flat.numel()
        return place

    def read(self, place: _Place) -> Tensor:
        """Return a tensor as it was written, in memory of its own."""
        flat = torch.empty(place.shape.numel(), dtype=place.dtype)
        left = flat.view(torch.uint8).numpy().data
        with self._turn:
            self._file.seek(place.start)
            while left:
                count = self._file.readinto(left)
                if not count:
                    raise WriteError(f"the file of updates in {cache_folder()} is cut short")
                left = left[count:]
        return flat.as_strided(place.shape, place.stride).to(place.device)


class StoredTensors(Mapping[str, Tensor]):
    """Tensors of a `TensorStore`. Every look-up reads a copy, which whoever asks may change."""

    def __init__(self, store: TensorStore, places: Mapping[str, _Place]) -> None:
        self._store, self._places = store, places

    def __getitem__(self, name: str) -> Tensor:
        return self._store.read(self._places[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, and what another process gets, hold the tensors themselves."""
        return dict, (dict(self),)
