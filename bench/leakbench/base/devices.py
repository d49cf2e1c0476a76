"""Choice of device, precision and number of workers; settings for reproducible computation."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from leakbench.base.choices import Precision
from leakbench.base.errors import UsageError


def check_precision(precision: Precision, device: str) -> None:
    """Refuse a precision that the device does not support.

    Raises:
        UsageError: names the supported ones.
    """
    if precision == "tf32" and not device.startswith("cuda"):
        raise UsageError(
            f"precision 'tf32' needs --device cuda, not {device}; choose float32 or bfloat16"
        )


def chosen_device(name: str) -> str:
    """Return the device to compute on; `auto` uses a GPU if there is one.

    Raises:
        UsageError: it is not available.
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
    """Return the default number of workers: one per core, or one per GPU."""
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
    """Set PyTorch to one thread and deterministic algorithms in this process."""
    import torch

    torch.set_num_threads(1)
    # No reduced precision, no choice of algorithms by timing.
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


CPU_FACTS = {"model name": "", "cpu family": "family ", "model": "model "}
"""What Linux says of a processor, and what is written before it."""


@cache
def processor_of(device: str) -> str:
    """Return which processor a device computes on, and the instructions that PyTorch uses there.

    Two that differ round sums differently, which over a training grows to another model.
    """
    import torch

    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.is_file() else []
    said = {name.strip(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    named = [f"{before}{said[name]}" for name, before in CPU_FACTS.items() if said.get(name)]
    named = named or [platform.processor() or platform.machine()]
    return ", ".join([*named, torch.backends.cpu.get_cpu_capability()])
