"""What happens where memory runs out."""

from __future__ import annotations

import torch

from leakbench.base.errors import UsageError


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory ran out, on any device."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or any(
        sentence in str(error) for sentence in OUT_OF_MEMORY
    )


def does_not_fit(batch_size: int, device: torch.device) -> UsageError:
    """Return the error for a device whose memory cannot hold even one victim batch."""
    return UsageError(
        f"not even one batch of {batch_size} fits into the memory of {device.type}; lower "
        f"batch_size or image_size, or run fewer --workers"
    )


OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "out of memory")
"""Messages of PyTorch's errors that have no exception class of their own."""
