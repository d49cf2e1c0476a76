"""Files of weights for LPIPS, and images to compare."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from leakbench.metrics.lpips_weights import SHAPES

HUB = "checkpoints/alexnet-owt-7be5be79.pth"


def random_convolutions() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    found = {}
    for layer, shape in SHAPES.items():
        scale = np.prod(shape[1:]) ** -0.5
        found[f"{layer}.weight"] = scale * torch.randn(shape, generator=draw)
        found[f"{layer}.bias"] = scale * torch.randn(shape[0], generator=draw)
    return found


def pictures(number: int, size: int = 32) -> Tensor:
    """Smooth random images in [0, 1], shape (number, 3, size, size)."""
    draw = torch.Generator().manual_seed(number)
    coarse = torch.rand(number, 3, 6, 6, generator=draw)
    return functional.interpolate(coarse, size=(size, size), mode="bilinear")
