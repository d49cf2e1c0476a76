"""The precision in which the shared model computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from leakbench.base.choices import Precision


@contextmanager
def tensor_cores(precision: Precision) -> Iterator[None]:
    """Let a CUDA device multiply float32 numbers rounded to TF32, if that is asked for."""
    if precision != "tf32":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
