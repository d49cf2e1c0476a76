"""The gradient of a large batch is taken in parts, so that it fits into memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from leakbench.base.plugins import build
from leakbench.base.registry import MODELS
from leakbench.federation import gradient_parts
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import client_update
from leakbench.federation.loss import Loss
from leakbench.federation.shared_model import SharedModel

B = 24
"""Individuals of the batches."""


def network(name: str = "small_cnn", **parameters: object) -> SharedModel:
    torch.manual_seed(0)
    model: SharedModel = build(MODELS, name, parameters).build(3, 32, "convolutions")
    return model.eval()


def face_network() -> SharedModel:
    """A deep network with BatchNorm."""
    return network("mobilefacenet", input_size=16, hidden=16)


def batch(size: int = B) -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(1)
    images = torch.rand(size, 3, 32, 32, generator=draw)
    return images, torch.randint(3, (size,), generator=draw)


@contextmanager
def sizes_seen(model: nn.Module) -> Iterator[list[int]]:
    """The sizes of the batches that pass a model with a gradient."""
    seen: list[int] = []

    def see(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if torch.is_grad_enabled():
            seen.append(len(inputs[0]))

    handle = model.register_forward_pre_hook(see)
    try:
        yield seen
    finally:
        handle.remove()


def little(monkeypatch: pytest.MonkeyPatch, of: SharedModel, individuals: int) -> None:
    """Let the activations of so many individuals fill what may be held."""
    each = gradient_parts._bytes_held(of, batch(2)[0]) // 2
    monkeypatch.setattr(gradient_parts, "HELD", individuals * each + 1)


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The largest distance of two gradients of a parameter, relative to all of the gradient."""
    assert list(one) == list(other)
    whole = torch.stack([value.norm() for value in one.values()]).norm()
    return max(float((one[name] - other[name]).norm() / whole) for name in one)


@pytest.mark.parametrize(
    "loss",
    [
        Loss(),
        Loss(class_weights=(0.5, 1.0, 3.0), label_smoothing=0.1),
        Loss(reduction="sum"),
        Loss(link="identity", table=((0.0, 1.0, 0.5), (1.0, 0.0, 0.0), (0.0, 0.0, 2.0))),
    ],
    ids=["mean", "weights", "sum", "squares"],
)
def test_a_large_batch_passes_in_parts_and_its_gradient_is_the_same(
    loss: Loss, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, (images, labels) = face_network(), batch()
    model.loss = loss
    with sizes_seen(model) as seen:
        whole = client_update(model, images, labels)
    assert max(seen) == B
    little(monkeypatch, model, 10)
    with sizes_seen(model) as seen:
        parts = client_update(model, images, labels)
    # The first two tell how much memory an individual needs.
    assert seen == [2, 8, 8, 8]
    assert 0 < distance(whole, parts) < 1e-5


def test_class_probabilities_are_parted_as_classes_are(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, labels) = network(), batch()
    whole = client_update(model, images, labels)
    little(monkeypatch, model, 10)
    soft = functional.one_hot(labels, 3).float()
    assert distance(whole, client_update(model, images, soft)) < 1e-5


def test_a_batch_that_fits_keeps_its_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model, (images, labels) = network(), batch()
    whole = client_update(model, images, labels)
    little(monkeypatch, model, B)
    with sizes_seen(model) as seen:
        again = client_update(model, images, labels)
    assert max(seen) == B
    assert distance(whole, again) == 0


def test_eight_individuals_are_never_parted_and_nobody_is_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = network()
    monkeypatch.setattr(gradient_parts, "HELD", 1)
    for size, parts in ((8, [8]), (9, [5, 4]), (17, [6, 6, 5])):
        with sizes_seen(model) as seen:
            client_update(model, *batch(size))
        assert seen[-len(parts) :] == parts


def test_published_batches_of_the_deep_networks_pass_whole_up_to_32() -> None:
    """Of MobileFaceNet at its own input size, whose 128 individuals pass in parts."""
    model = build(MODELS, "mobilefacenet", {}).build(8, 64, "convolutions").eval()
    each = gradient_parts._bytes_held(model, torch.rand(2, 3, 64, 64)) // 2
    assert 32 * each <= gradient_parts.HELD < 64 * each


class MixesPairs(nn.Module):
    """Adds to each individual its neighbour's mean, as comparisons of pairs do."""

    def forward(self, images: Tensor) -> Tensor:
        neighbour = torch.arange(len(images)).bitwise_xor(1).clamp(max=len(images) - 1)
        return images + images[neighbour].mean((1, 2, 3), keepdim=True)


class Centres(nn.Module):
    """Subtracts the batch's mean."""

    def forward(self, images: Tensor) -> Tensor:
        return images - images.mean(0, keepdim=True)


@pytest.mark.parametrize("before", [MixesPairs(), Centres(), nn.Dropout2d(0.5)])
def test_a_model_that_mixes_individuals_or_draws_is_not_parted(
    before: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = network()
    model = SharedModel(nn.Sequential(before, plain.extractor), plain.classifier).eval()
    before.train()
    little(monkeypatch, model, 10)
    with sizes_seen(model) as seen:
        client_update(model, *batch())
    assert max(seen) == B


@pytest.mark.parametrize("how", ["batch statistics", "training mode"])
def test_nothing_is_parted_where_batch_norm_or_training_may_mix(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = face_network()
    little(monkeypatch, model, 10)
    model = in_mode(model, "train") if how == "batch statistics" else model.train()
    with sizes_seen(model) as seen:
        client_update(model, *batch())
    assert seen == [B]
