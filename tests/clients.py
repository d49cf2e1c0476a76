"""Clients on which defenses are tried, and what they send."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from leakbench.base.plugins import build
from leakbench.base.registry import DEFENSES
from leakbench.conformance.clients import client, small_model
from leakbench.federation.client import Client, Update, gradient
from leakbench.federation.defense import Defense
from leakbench.federation.training import ClientData

__all__ = [
    "assert_close",
    "assert_equal",
    "client",
    "clients_data",
    "constant_update",
    "defense",
    "flat",
    "sent",
    "small_model",
]


def clients_data(*sizes: int) -> list[ClientData]:
    """Random images of 16 px and one of two classes, so many for each client."""
    draw = np.random.default_rng(0)
    return [
        ClientData(
            draw.integers(0, 256, (size, 3, 16, 16), dtype=np.uint8), draw.integers(0, 2, size)
        )
        for size in sizes
    ]


def flat(update: dict[str, Tensor]) -> Tensor:
    """All parameters of an update as one vector."""
    return torch.cat([value.flatten() for value in update.values()])


def defense(name: str, **parameters: Any) -> Defense:
    built: Defense = build(DEFENSES, name, parameters)
    return built


def sent(by: Client, name: str, **parameters: Any) -> Update:
    return defense(name, **parameters).protect(gradient)(by)


def assert_equal(update: Update, expected: Update) -> None:
    assert list(update) == list(expected)
    for name, value in expected.items():
        assert torch.equal(update[name], value), name


def assert_close(update: Update, expected: Update) -> None:
    assert list(update) == list(expected)
    for name, value in expected.items():
        torch.testing.assert_close(update[name], value, rtol=1e-4, atol=1e-6)


def constant_update(target: Tensor) -> Any:
    """What computes an update of one tensor, the same for every client."""
    return lambda client: {"w": target}
