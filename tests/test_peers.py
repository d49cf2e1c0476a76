"""Agreement with breaching 0.1.2 (the `peers` extra) where that is right."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from faces import faces
from leakbench.attacks.ig import InvertingGradients
from leakbench.attacks.matching.distance import cosine_distance, squared_error
from leakbench.attacks.matching.dummy_gradients import dummy_gradients
from leakbench.attacks.matching.engine import match_gradients
from leakbench.attacks.matching.method import CENTRED, Victim
from leakbench.attacks.matching.priors import total_variation
from leakbench.federation.client import client_update
from leakbench.federation.models.lenet import LeNet
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.metrics.image_metrics import psnr
from leakbench.threat.server import Server
from peers import SETUP, attack_config, in_centred_pixels, reconstruct

breaching = pytest.importorskip("breaching", reason="the `peers` extra is not installed")

SIZE = 32


def gradient_of(value: Tensor, dummies: Tensor) -> Tensor:
    return torch.autograd.grad(value, dummies)[0]


def peer_objective(
    kind: str, model: nn.Module, update: dict[str, Tensor], x: Tensor, y: Tensor
) -> Tensor:
    objective = breaching.attacks.auxiliaries.objectives.objective_lookup[kind]()
    objective.initialize(nn.CrossEntropyLoss(), attack_config("invertinggradients").impl)
    return objective(model, list(update.values()), x, y)[0].squeeze()


@pytest.mark.parametrize(
    ("kind", "distance", "factor"),
    # breaching takes half of the squared error that DLG's paper and code minimise.
    [("euclidean", squared_error, 2.0), ("cosine-similarity", cosine_distance, 1.0)],
)
@pytest.mark.parametrize("name", ["lenet", "small_cnn"])
@pytest.mark.parametrize("batch_size", [1, 4])
def test_objectives_and_their_gradients_agree(
    kind: str, distance: Any, factor: float, name: str, batch_size: int
) -> None:
    torch.manual_seed(0)
    architecture = LeNet() if name == "lenet" else SmallCNN(width=8)
    # In double precision: rounding, which differs between processors, shall not count.
    model = architecture.build(10, SIZE, "convolutions").eval().double()
    labels = torch.randint(10, (batch_size,))
    update = client_update(model, torch.rand(batch_size, 3, SIZE, SIZE).double(), labels)
    dummies = torch.randn(batch_size, 3, SIZE, SIZE).double().requires_grad_()
    raw = name == "lenet"
    pixels = dummies if raw else CENTRED.to_pixels(dummies)
    gradients, _ = dummy_gradients(model, pixels[None], labels[None])
    ours = distance(gradients, {name: g[None] for name, g in update.items()}).sum()
    theirs = factor * peer_objective(kind, in_centred_pixels(model), update, dummies, labels)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(
        gradient_of(ours, dummies), gradient_of(theirs, dummies), rtol=1e-7, atol=1e-7
    )


def test_total_variation_agrees_where_the_border_is_black() -> None:
    """breaching pads with zeros, which counts the last row and column as edges."""
    images = torch.randn(4, 3, SIZE, SIZE)
    images[..., -1, :] = 0
    images[..., :, -1] = 0
    images.requires_grad_()
    theirs = breaching.attacks.auxiliaries.regularizers.TotalVariation(SETUP, scale=1.0)(images)
    # It also divides by all pixels, where there is one difference less than pixels in a row.
    ours = total_variation(images[None]).sum() * (SIZE - 1) / SIZE
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    inside = (slice(None), slice(None), slice(0, -1), slice(0, -1))
    torch.testing.assert_close(
        gradient_of(ours, images)[inside], gradient_of(theirs, images)[inside], rtol=1e-5, atol=1e-5
    )


STEPS, SEEDS = 4_000, 3


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.timeout(1_500)
def test_ig_s_images_are_no_worse_than_breaching_s_from_the_same_starts() -> None:
    torch.manual_seed(0)
    model = SmallCNN(width=8).build(10, SIZE, "convolutions").eval()
    images = faces(SEEDS)
    starts = torch.randn(SEEDS, 1, 3, SIZE, SIZE)
    labels = torch.arange(SEEDS)[:, None]
    updates = [client_update(model, x[None], y) for x, y in zip(images, labels, strict=True)]
    attack = InvertingGradients(budget=STEPS)
    server = Server(10, (3, SIZE, SIZE), (), model=model)
    method = replace(attack.method(server), start=lambda victim, _: starts[victim.seed])
    victims = [
        Victim(u, y, 1, seed) for seed, (u, y) in enumerate(zip(updates, labels, strict=True))
    ]
    found = match_gradients(model, method, victims, 10, lambda share: None)
    ours = torch.cat([reconstruction.images for reconstruction in found])
    config = attack_config(
        "invertinggradients",
        f"optim.max_iterations={STEPS}",
        f"regularization.total_variation.scale={attack.tv}",
    )
    theirs = torch.cat(
        [
            CENTRED.to_pixels(reconstruct(in_centred_pixels(model), config, update, label, start))
            for update, label, start in zip(updates, labels, starts, strict=True)
        ]
    )
    gained = psnr(ours, images) - psnr(theirs, images)
    assert gained.mean() >= 0, (psnr(ours, images), psnr(theirs, images))
