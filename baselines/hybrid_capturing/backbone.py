"""The pretrained network that HCN's classifiers may start from, frozen."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from leakbench.base.cache import cached_tensors
from leakbench.base.plugins import build
from leakbench.base.registry import MODELS
from leakbench.base.seeds import digest, tensor_digest
from leakbench.federation.shared_model import Architecture

PART = 50
"""Images that pass through at once."""


@lru_cache(maxsize=1)
def frozen_backbone(name: str, weights: str, size: int, device: str) -> nn.Module:
    """Return a registered model's feature extractor with pretrained weights, in evaluation mode.

    The last one is kept: the networks of all properties share it, and nobody trains it.

    Args:
        name, weights: of the model.
        size: height and width of the images.
        device: where it computes.

    Raises:
        UsageError: the model has no such weights, cannot take images of this size, or the weights
            are not on this machine.
    """
    architecture: Architecture = build(MODELS, name, {"weights": weights})
    split = architecture.splits[0]
    architecture.check(size, split)
    # The head, which is drawn at random, is not used; without pretrained weights all is drawn.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        extractor = architecture.build(2, size, split).extractor
    return extractor.to(device).eval().requires_grad_(False)


def features(extractor: nn.Module, name: str, weights: str, images: Tensor) -> Tensor:
    """Return the extractor's features of images, shape (n, d), from the cache if they are there.

    Args:
        extractor: what `frozen_backbone` returns for `name` and `weights`.
        images: in [0, 1], shape (n, 3, size, size).
    """

    def computed() -> dict[str, Tensor]:
        with torch.no_grad():
            return {"features": torch.cat([extractor(part) for part in torch.split(images, PART)])}

    key = digest("hcn backbone", name, weights, tensor_digest(images))[:24]
    return cached_tensors(f"hcn/{key}-{images.device.type}", computed)["features"]
