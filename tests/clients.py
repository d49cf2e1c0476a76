"""Clients on which defenses are tried, and their updates as vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from leakbench.conformance.clients import client, small_model

__all__ = ["client", "flat", "small_model"]


def flat(update: dict[str, Tensor]) -> Tensor:
    """All parameters of an update as one vector."""
    return torch.cat([value.flatten() for value in update.values()])
