"""Synthetic faces for tests and benchmarks."""

from __future__ import annotations

from torch import Tensor

from bench.federation import to_images
from bench.plugins import build
from bench.registry import DATASETS


def faces(number: int, size: int = 32, of: int | None = None) -> Tensor:
    """Return images in [0, 1], (n, 3, size, size), the first of a data set of `of`, default all."""
    individuals = build(DATASETS, "synthetic", {"individuals": of or number}).load(None, size)
    return to_images(individuals.images[:number])
