"""Seeds hashed from what they are used for, so that any part run alone gives the same numbers."""

from __future__ import annotations

import hashlib
from typing import Any

import torch

from leakbench.base.canonical import canonical


def digest(*parts: Any) -> str:
    """Return a SHA-256 over the canonical JSON of `parts`, 64 hexadecimal digits."""
    return text_digest(canonical(parts))


def text_digest(text: str) -> str:
    """Return a SHA-256 over a text, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def tensor_digest(tensor: torch.Tensor) -> str:
    """Return a SHA-256 over a tensor's numbers, 64 hexadecimal digits."""
    return hashlib.sha256(tensor.cpu().numpy().tobytes()).hexdigest()


def seed_for(*parts: Any) -> int:
    """Return a seed in [0, 2⁶³) that is the same for equal parts on every machine."""
    return int(digest(*parts)[:16], 16) >> 1


def generator_for(*parts: Any) -> torch.Generator:
    """Return a CPU generator seeded by `seed_for(*parts)`."""
    return torch.Generator().manual_seed(seed_for(*parts))
