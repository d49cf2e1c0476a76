"""A client's gradient leaves nothing in memory but itself, however many batches follow."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn

from leakbench.base.plugins import build
from leakbench.base.registry import MODELS
from leakbench.federation import gradient_parts
from leakbench.federation.client import client_update
from leakbench.federation.shared_model import SharedModel

SIZE = 32
"""Pixels of the images' sides."""

SMALL: dict[str, dict[str, int]] = {
    "small_cnn": {},
    "mobilefacenet": {"input_size": 16, "hidden": 16},
}
"""Networks without and with BatchNorm and PReLU, with parameters that make them small."""


def network(name: str) -> SharedModel:
    torch.manual_seed(0)
    architecture = build(MODELS, name, SMALL[name])
    model: SharedModel = architecture.build(3, SIZE, architecture.splits[0])
    return model.eval()


def batch(size: int) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    return torch.rand(size, 3, SIZE, SIZE, generator=draw), torch.arange(size) % 3


@contextmanager
def outputs_of_layers(model: nn.Module) -> Iterator[list[weakref.ref[Tensor]]]:
    """Whatever layers put out, as long as somebody keeps it."""
    seen: list[weakref.ref[Tensor]] = []

    def see(_module: nn.Module, _inputs: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor):
            seen.append(weakref.ref(output))

    handles = [module.register_forward_hook(see) for module in model.modules()]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("held", [2**30, 1], ids=["whole", "in parts"])
def test_no_activation_outlives_a_gradient(
    name: str, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MobileFaceNet's at 32 individuals left 60 MB a batch, some gigabytes a worker."""
    model = network(name)
    monkeypatch.setattr(gradient_parts, "HELD", held)
    with outputs_of_layers(model) as seen:
        client_update(model, *batch(gradient_parts.FEWEST + 1))
    assert seen
    assert not any(output() is not None for output in seen)


@pytest.mark.parametrize("name", SMALL)
def test_what_is_said_to_be_held_is_let_go(name: str) -> None:
    model = network(name)
    with outputs_of_layers(model) as seen:
        held = gradient_parts._bytes_held(model, batch(2)[0])
    assert held > 2 * 3 * SIZE * SIZE
    assert not any(output() is not None for output in seen)
