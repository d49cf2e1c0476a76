"""Devices and cores to compute on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from leakbench.base.choices import Precision
from leakbench.base.errors import UsageError


def check_precision(precision: Precision, device: str) -> None:
    """Refuse a precision that a device does not have.

    Raises:
        UsageError: names those that it has.
    """
    if precision == "tf32" and not device.startswith("cuda"):
        raise UsageError(
            f"precision 'tf32' needs --device cuda, not {device}; choose float32 or bfloat16"
        )


def chosen_device(name: str) -> str:
    """Return the device to compute on; `auto` takes a GPU where there is one.

    Raises:
        UsageError: it is not there.
    """
    import torch

    available = {"cpu": True, "cuda": torch.cuda.is_available()}
    available["mps"] = torch.backends.mps.is_available()
    if name == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if available[device])
    if not available[name]:
        raise UsageError(f"device {name!r} is not available here; use --device auto")
    return name


def default_workers(device: str) -> int:
    """Return how many workers there are by default: one a core, or one a GPU."""
    if device == "cpu":
        return available_cores()
    if device == "cuda":
        import torch

        return torch.cuda.device_count()
    return 1


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def compute_reproducibly() -> None:
    """Let this process give numbers that do not depend on the run, with one thread."""
    import torch

    torch.set_num_threads(1)
    # No reduced precision, no choice by timing.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


@contextmanager
def computing_reproducibly() -> Iterator[None]:
    """Compute as `compute_reproducibly` says for a while; afterwards as before."""
    import torch

    threads, cudnn = torch.get_num_threads(), torch.backends.cudnn
    before = cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic
    compute_reproducibly()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        cudnn.allow_tf32, cudnn.benchmark, cudnn.deterministic = before
