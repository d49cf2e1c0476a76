"""Dummy gradients layer by layer: the same as mapped, for which models, and with factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from leakbench.attacks.feature import FeatureReconstruction
from leakbench.attacks.ig import InvertingGradients
from leakbench.attacks.matching import run_convolutions
from leakbench.attacks.matching.convolution_geometry import Geometry
from leakbench.attacks.matching.distance import (
    Measured,
    cosine_distance,
    cosine_gaussian_distance,
    squared_norm,
)
from leakbench.attacks.matching.dummy_gradients import (
    dummy_gradients,
    layers_with_rules,
    weights_of,
)
from leakbench.attacks.matching.engine import match_gradients
from leakbench.attacks.matching.factors import Factors
from leakbench.attacks.matching.matching_attack import GradientMatching
from leakbench.attacks.matching.method import Victim
from leakbench.attacks.matching.run_convolutions import weight_gradients
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import client_update
from leakbench.federation.models.lenet import LeNet
from leakbench.federation.models.resnet18 import ResNet18
from leakbench.federation.models.small_cnn import SmallCNN
from leakbench.federation.shared_model import Architecture, SharedModel
from leakbench.threat.server import Auxiliary, Server

CLASSES, SIZE = 5, 16
HIDDEN = "classifier.0"
RESNET = pytest.param(ResNet18(), marks=pytest.mark.nightly)
MODELS = [LeNet(), SmallCNN(width=4), SmallCNN(width=4, batch_norm=True), RESNET]


def built(architecture: Architecture) -> SharedModel:
    """A model in double precision whose BatchNorm layers have seen some images."""
    torch.manual_seed(0)
    model = architecture.build(CLASSES, SIZE, "convolutions").double()
    for _ in range(3):
        model(torch.rand(8, 3, SIZE, SIZE, dtype=torch.float64))
    return model.eval()


def images(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, 3, SIZE, SIZE, generator=generator, dtype=torch.float64)


# Layer by layer


@pytest.mark.parametrize("little", [0, 10**12], ids=["for each run", "patches"])
@pytest.mark.parametrize("soft", [False, True], ids=["classes", "probabilities"])
@pytest.mark.parametrize("architecture", MODELS, ids=repr)
def test_gradients_statistics_and_slopes_are_those_of_the_mapped_way(
    architecture: Architecture, soft: bool, little: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_convolutions, "LITTLE", little)
    model = built(architecture)
    layers = layers_with_rules(model, images(3))
    assert layers is not None
    targets = torch.tensor([[0, 1, 1], [3, 2, 0]])
    if soft:
        targets = functional.one_hot(targets, CLASSES).double().add(0.1).softmax(2)
    found = []
    for way in (None, layers):
        x, y = images(2, 3).requires_grad_(), targets.clone().requires_grad_(soft)
        gradients, statistics = dummy_gradients(model, x, y, way, with_statistics=True)
        weighted = [g.flatten(1).sin().sum() for g in gradients.values()]
        weighted += [part.cos().sum() for pair in statistics.values() for part in pair]
        slopes = torch.autograd.grad(torch.stack(weighted).sum(), [x, y] if soft else [x])
        found.append((gradients, statistics, slopes))
    (mapped, of_mapped, mapped_slopes), (layerwise, of_layerwise, layerwise_slopes) = found
    assert list(layerwise) == list(mapped) == [name for name, _ in model.named_parameters()]
    for name, gradient in layerwise.items():
        torch.testing.assert_close(gradient, mapped[name], rtol=1e-8, atol=1e-11)
    assert list(of_layerwise) == list(of_mapped)
    for name, pair in of_layerwise.items():
        torch.testing.assert_close(pair, of_mapped[name], rtol=1e-8, atol=1e-11)
    for a, b in zip(layerwise_slopes, mapped_slopes, strict=True):
        assert b.abs().max() > 0
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("little", [0, 10**12], ids=["for each run", "patches"])
@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(3, 4, (3, 5), padding=(1, 2)),
        nn.Conv2d(3, 4, 5, stride=2, padding=2),
        nn.Conv2d(3, 4, 3, stride=(2, 3), padding=1, dilation=(2, 1)),
        nn.Conv2d(3, 4, 1, stride=3),
        nn.Conv2d(3, 4, 1),
    ],
    ids=str,
)
def test_each_run_s_weight_gradient_is_its_convolution_s(
    layer: nn.Conv2d, little: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_convolutions, "LITTLE", little)
    layer = layer.double()
    x = images(6).requires_grad_()
    outputs = layer(x)
    deltas = (outputs.detach() * 3).cos().requires_grad_()
    found = weight_gradients(x, deltas, 2, Geometry.of(layer))
    slopes = torch.autograd.grad(found.square().sum(), [x, deltas])
    expected = []
    for run in (slice(0, 3), slice(3, 6)):
        weight = layer.weight.detach().requires_grad_()
        out = functional.conv2d(
            x[run], weight, layer.bias, layer.stride, layer.padding, layer.dilation
        )
        expected.append(torch.autograd.grad(out, weight, deltas[run], create_graph=True)[0])
    torch.testing.assert_close(found, torch.stack(expected))
    by_autograd = torch.autograd.grad(torch.stack(expected).square().sum(), [x, deltas])
    for a, b in zip(slopes, by_autograd, strict=True):
        torch.testing.assert_close(a, b)


def test_a_model_that_normalises_by_the_batch_is_mapped() -> None:
    model = built(SmallCNN(width=4, batch_norm=True))
    assert layers_with_rules(model, images(2)) is not None
    assert layers_with_rules(in_mode(model, "train"), images(2)) is None
    assert layers_with_rules(model.train(), images(2)) is None


def test_rows_of_one_individual_are_summed() -> None:
    rows = nn.Sequential(nn.Unflatten(1, (48, 16)), nn.Linear(16, 2), nn.Flatten())
    model = SharedModel(
        nn.Sequential(nn.Flatten(), rows), nn.Sequential(nn.Linear(96, CLASSES))
    ).double()
    layers, labels = layers_with_rules(model, images(3)), torch.tensor([[0, 1, 1], [3, 2, 0]])
    assert layers == ["extractor.1.1", "classifier.0"]
    found, _ = dummy_gradients(model, images(2, 3), labels, layers)
    for run in range(2):
        for name, sent in client_update(model, images(2, 3)[run], labels[run]).items():
            torch.testing.assert_close(found[name][run], sent)


# Precision


@pytest.mark.parametrize("way", ["layer by layer", "mapped"])
def test_in_half_precision_the_model_computes_roughly_and_all_else_exactly(way: str) -> None:
    model = built(SmallCNN(width=16)).float()
    x, labels = images(2, 3).float().requires_grad_(), torch.tensor([[0, 1, 1], [3, 2, 0]])
    layers = layers_with_rules(model, images(3).float()) if way == "layer by layer" else None
    target = dummy_gradients(model, images(2, 3, seed=1).float(), labels)[0]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        weights = weights_of(model, dtype)
        gradients, _ = dummy_gradients(
            model, x, labels, layers, factors=layers is not None, weights=weights
        )
        distance = cosine_distance(gradients, target)
        slope = torch.autograd.grad(distance.sum(), x)[0]
        assert distance.dtype == slope.dtype == torch.float32
        found.append((distance.detach(), slope.flatten(1)))
    (exact, exact_slope), (rough, rough_slope) = found
    assert not torch.equal(rough, exact)
    torch.testing.assert_close(rough, exact, rtol=0, atol=0.02)
    assert (functional.cosine_similarity(rough_slope, exact_slope) > 0.98).all()


# Factors


@pytest.mark.parametrize(
    ("architecture", "batch_size", "expected"),
    [
        # Hidden layer: 256 · 64 = 16,384 numbers against 320 for each individual.
        (SmallCNN(width=4), 1, [HIDDEN, "classifier.2"]),
        (SmallCNN(width=4), 8, [HIDDEN]),
        (SmallCNN(width=4), 51, [HIDDEN]),
        (SmallCNN(width=4), 52, []),
        # Output layer: 5 · 512 = 2,560 numbers against 517.
        pytest.param(ResNet18(), 4, ["classifier.0"], marks=pytest.mark.nightly),
        pytest.param(ResNet18(), 5, [], marks=pytest.mark.nightly),
    ],
    ids=repr,
)
def test_layers_are_factored_where_factors_are_smaller_than_their_product(
    architecture: Architecture, batch_size: int, expected: list[str]
) -> None:
    model, x = built(architecture), images(1, batch_size)
    layers = layers_with_rules(model, x[0])
    labels = torch.zeros(1, batch_size, dtype=torch.long)
    whole, _ = dummy_gradients(model, x, labels, layers)
    parts, _ = dummy_gradients(model, x, labels, layers, factors=True)
    kept = {name: g for name, g in parts.items() if isinstance(g, Factors)}
    assert list(kept) == [f"{layer}.weight" for layer in expected]
    for name, g in kept.items():
        torch.testing.assert_close(g.product(), whole[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    "distance",
    [cosine_distance, lambda g, t: cosine_gaussian_distance(g, t, 1.0)],
    ids=["cosine", "Eq. 3"],
)
def test_distances_and_their_slopes_are_the_same_with_factors_and_measured_targets(
    distance: Callable[..., Tensor],
) -> None:
    model, labels = built(SmallCNN(width=4)), torch.tensor([[0, 1, 1], [3, 2, 0]])
    plain = dummy_gradients(model, images(2, 3, seed=1), labels)[0]
    measured = {name: Measured(g, squared_norm(g)) for name, g in plain.items()}
    layers = layers_with_rules(model, images(3))
    found = []
    for factors, target in ((False, plain), (True, plain), (False, measured), (True, measured)):
        x = images(2, 3).requires_grad_()
        value = distance(dummy_gradients(model, x, labels, layers, factors=factors)[0], target)
        found.append((value, *torch.autograd.grad(value.sum(), x)))
    for whole, *others in zip(*found, strict=True):
        assert whole.abs().max() > 0
        for other in others:
            torch.testing.assert_close(other, whole, rtol=1e-9, atol=1e-12)


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
