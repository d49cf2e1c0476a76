"""Clients with a small model and made-up images, and defenses with parameters that fit them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bench.client import Client
from bench.models import SharedModel, SmallCNN

SAMPLES: dict[str, dict[str, Any]] = {
    "clip": {"norm": 0.5},
    "composed": {
        "defenses": [
            {"name": "local_steps", "epochs": 2, "batch": 2},
            {"name": "sparsify", "fraction": 0.5},
            {"name": "gaussian", "sigma": 0.01},
        ]
    },
    "dp_sgd": {"clip": 0.5, "noise": 0.1},
    "gaussian": {"sigma": 0.01},
    "laplace": {"sigma": 0.01},
    "local_steps": {"epochs": 2, "batch": 2},
    "none": {},
    "quantise": {"bits": 2},
    "secure_aggregation": {"of": 2},
    "soteria": {"fraction": 0.5},
    "sparsify": {"fraction": 0.1, "choice": "random"},
}
"""Parameters of every defense."""


def small_model(**parameters: Any) -> SharedModel:
    """An untrained CNN of 8 classes for images of 16 px, d = 64."""
    torch.manual_seed(0)
    return SmallCNN(**{"width": 4, "hidden": 32} | parameters).build(8, 16, "convolutions").eval()


def client(individuals: int, seed: int = 0, **parameters: Any) -> Client:
    """A client with as many individuals, whose generator begins with a seed."""
    draw = torch.Generator().manual_seed(17)
    return Client(
        model=small_model(**parameters),
        images=torch.rand(individuals, 3, 16, 16, generator=draw),
        labels=torch.randint(0, 8, (individuals,), generator=draw),
        learning_rate=0.1,
        generator=torch.Generator().manual_seed(seed),
    )


def flat(update: dict[str, Tensor]) -> Tensor:
    """All parameters of an update as one vector."""
    return torch.cat([value.flatten() for value in update.values()])
