"""Weights by name, as the files of other frameworks hold them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from leakbench.base.errors import UsageError


def weights_by_name(found: Any, path: Path, written_by: str) -> dict[str, Tensor]:
    """Return what was read of a file, once it is tensors by name.

    Args:
        written_by: what writes such files, for the message.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(found, Mapping) or not found:
        raise UsageError(
            f"{path} holds {type(found).__name__} and no tensors by name; give a file of "
            f"{written_by}"
        )
    other = next((n for n, value in found.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise UsageError(
            f"{other!r} in {path} is {type(found[other]).__name__} and no tensor; give a file of "
            f"{written_by} whose weights are not encrypted or quantised"
        )
    return {str(name): value.detach().contiguous() for name, value in found.items()}
