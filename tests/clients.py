"""Clients on which defenses are tried, and what they send."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from leakbench.base.plugins import build
from leakbench.base.registry import DEFENSES
from leakbench.conformance.clients import client, small_model
from leakbench.federation.client import Client, Update, gradient
from leakbench.federation.defense import Defense

__all__ = [
    "assert_close",
    "assert_equal",
    "client",
    "constant_update",
    "defense",
    "flat",
    "sent",
    "small_model",
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
