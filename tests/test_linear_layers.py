"""Weight gradients of linear layers as factors: which layers, and the same answers."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from attacks.distance import cosine_distance, cosine_gaussian_distance
from attacks.feature import FeatureReconstruction
from attacks.gradient_matching import dummy_gradients, match_gradients
from attacks.ig import InvertingGradients
from attacks.linear_layers import Factors, factored_layers
from attacks.matching_attack import GradientMatching
from attacks.method import Victim
from bench.federation import client_update
from bench.models import Architecture, LeNet, ResNet18, SharedModel, SmallCNN
from bench.threat import Auxiliary, Server

CLASSES, SIZE = 5, 16
HIDDEN = "classifier.0"


def built(architecture: Architecture) -> SharedModel:
    torch.manual_seed(0)
    return architecture.build(CLASSES, SIZE, "convolutions").double().eval()


def images(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize(
    ("architecture", "batch_size", "expected"),
    [
        # Hidden layer: 256 · 64 = 16,384 numbers against 320 for each individual.
        (SmallCNN(width=4), 1, [HIDDEN, "classifier.2"]),
        (SmallCNN(width=4), 8, [HIDDEN]),
        (SmallCNN(width=4), 51, [HIDDEN]),
        (SmallCNN(width=4), 52, []),
        # Output layer: 5 · 512 = 2,560 numbers against 517.
        (ResNet18(), 4, ["classifier.0"]),
        (ResNet18(), 5, []),
    ],
    ids=repr,
)
def test_layers_are_factored_where_factors_are_smaller_than_their_product(
    architecture: Architecture, batch_size: int, expected: list[str]
) -> None:
    assert factored_layers(built(architecture), images(batch_size)) == expected


class TwiceThrough(nn.Module):
    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, features: Tensor) -> Tensor:
        return self.layer(self.layer(features))


def test_a_layer_that_is_met_twice_or_shared_or_fed_with_rows_is_left_whole() -> None:
    once, output = nn.Linear(64, 64), nn.Linear(64, CLASSES)
    tied = nn.Linear(64, 64)
    tied.weight = once.weight
    flat, rows = nn.Flatten(), nn.Unflatten(1, (4, 16))
    pool = nn.AdaptiveAvgPool2d(8)
    head = nn.Sequential(pool, flat, nn.Linear(192, 64))
    for classifier in (
        nn.Sequential(TwiceThrough(once), output),
        nn.Sequential(once, tied, output),
        nn.Sequential(rows, nn.Linear(16, 16), flat, output),
    ):
        found = factored_layers(SharedModel(head, classifier), images(1).float())
        assert found == ["extractor.2", f"classifier.{len(classifier) - 1}"]


@pytest.mark.parametrize("architecture", [SmallCNN(width=4), LeNet(), ResNet18()], ids=repr)
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("soft", [False, True])
def test_factors_multiply_to_the_gradient_that_autograd_forms(
    architecture: Architecture, batch_size: int, soft: bool
) -> None:
    model, x = built(architecture), images(2, batch_size)
    targets = torch.arange(2 * batch_size).view(2, batch_size) % CLASSES
    if soft:
        targets = nn.functional.one_hot(targets, CLASSES).double().add(0.1).softmax(2)
    layers = factored_layers(model, x[0])
    assert layers
    whole, _ = dummy_gradients(model, x, targets)
    parts, _ = dummy_gradients(model, x, targets, factored=layers)
    assert list(parts) == list(whole)
    kept = [name for name, g in parts.items() if isinstance(g, Factors)]
    assert kept == [f"{layer}.weight" for layer in layers]
    for name, g in parts.items():
        product = g.product() if isinstance(g, Factors) else g
        torch.testing.assert_close(product, whole[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "distance",
    [cosine_distance, lambda g, t: cosine_gaussian_distance(g, t, 1.0)],
    ids=["cosine", "Eq. 3"],
)
def test_distances_and_their_slopes_are_the_same_with_factors(distance: object) -> None:
    model, labels = built(SmallCNN(width=4)), torch.tensor([[0, 1, 1], [3, 2, 0]])
    target = dummy_gradients(model, images(2, 3, seed=1), labels)[0]
    found = []
    for layers in ([], [HIDDEN]):
        x = images(2, 3).requires_grad_()
        value = distance(dummy_gradients(model, x, labels, factored=layers)[0], target)
        found.append((value, *torch.autograd.grad(value.sum(), x)))
    for whole, factored in zip(*found, strict=True):
        assert whole.abs().max() > 0
        torch.testing.assert_close(factored, whole, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "attack", [InvertingGradients(budget=40), FeatureReconstruction(budget=40)], ids=repr
)
def test_an_attack_finds_the_same_with_factors_and_without(attack: GradientMatching) -> None:
    model = built(SmallCNN(width=4))
    labels = torch.tensor([0, 3])
    auxiliary = Auxiliary(images(1), labels[:1], {}, labels[:1])
    server = Server(CLASSES, (3, SIZE, SIZE), (), model=model, auxiliary=auxiliary)
    method = attack.method(server)
    assert method.factors
    begin = method.start
    method = replace(method, start=lambda victim, generator: begin(victim, generator).double())
    victims = [
        Victim(client_update(model, images(2, seed=seed), labels), labels, 2, seed)
        for seed in range(3)
    ]

    def found(factors: bool) -> list[Tensor]:
        way = replace(method, factors=factors)
        return [r.images for r in match_gradients(model, way, victims, CLASSES, lambda share: None)]

    for whole, factored in zip(found(False), found(True), strict=True):
        torch.testing.assert_close(factored, whole, rtol=1e-6, atol=1e-6)
