"""Synthetic faces for tests and benchmarks."""

from __future__ import annotations

from torch import Tensor

from leakbench.base.plugins import build
from leakbench.base.registry import DATASETS
from leakbench.data.images import to_images


def faces(number: int, size: int = 32, of: int | None = None) -> Tensor:
    """Return images in [0, 1], (n, 3, size, size), the first of a data set of `of`, default all."""
    individuals = build(DATASETS, "synthetic", {"individuals": of or number}).load(None, size)
    return to_images(individuals.images[:number])
