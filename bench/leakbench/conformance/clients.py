"""A client with a small model and random images, on which a defense can be tried."""

from __future__ import annotations

from typing import Any

import torch

from leakbench.federation.client import Client
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import SharedModel


def small_model(**parameters: Any) -> SharedModel:
    """Return an untrained CNN of 8 classes for images of 16 px, d = 64; always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        chosen = {"width": 4, "hidden": 32} | parameters
        return SmallCNN(**chosen).build(8, 16, "convolutions").eval()


def client(individuals: int, seed: int = 0, **parameters: Any) -> Client:
    """Return a client of so many individuals, with a seeded generator.

    Args:
        parameters: of its model.
    """
    draw = torch.Generator().manual_seed(17)
    return Client(
        model=small_model(**parameters),
        images=torch.rand(individuals, 3, 16, 16, generator=draw),
        labels=torch.randint(0, 8, (individuals,), generator=draw),
        learning_rate=0.1,
        generator=torch.Generator().manual_seed(seed),
    )
