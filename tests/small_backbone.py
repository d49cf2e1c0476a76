"""A model of a few hundred weights whose extractor is pretrained, as an outside plugin has it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from leakbench.federation.backbones.weight_sources import Weights, load_strictly, tensors_of
from leakbench.federation.shared_model import Architecture, Normalise, SharedModel

NAME = "small_backbone"


@dataclass(frozen=True, kw_only=True)
class SmallBackbone(Architecture):
    """A convolution with BatchNorm and a linear layer."""

    reference = "none"

    weights: Weights = "none"
    width: int = 4

    def build(self, classes: int, size: int, split: str) -> SharedModel:
        body = body_of(self.width)
        if self.weights != "none":
            load_strictly(body, tensors_of(self.weights, self.name), self.name, ["fc"])
        layers = [Normalise(), body, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        return SharedModel(
            nn.Sequential(*layers), nn.Sequential(nn.Linear(4 * self.width, classes))
        )


def body_of(width: int = 4) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3, stride=2), nn.BatchNorm2d(width))


def saved_weights(file: Path, width: int = 4, seed: int = 1) -> Path:
    """Write weights of the body, and of a last layer that it does not use."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tensors = body_of(width).state_dict() | {"fc.weight": torch.randn(5, width)}
    file.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, file)
    return file


def name_of(file: Path) -> str:
    return f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
