"""Layer by layer, each run's gradients and their slopes are those of autograd on that run alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torchvision.models import mobilenet_v2, mobilenet_v3_small, resnet18
from torchvision.models.vision_transformer import VisionTransformer

from leakbench.attacks.matching import grouped_convolutions
from leakbench.attacks.matching.dummy_gradients import dummy_gradients, layers_with_rules
from leakbench.base.plugins import build
from leakbench.base.registry import MODELS
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.shared_model import Normalise, SharedModel

CLASSES, SIZE = 3, 8
LABELS = torch.tensor([[0, 1], [2, 1]])
NORMALISING = (nn.BatchNorm1d, nn.BatchNorm2d, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm2d)


def images(size: int, seed: int = 0) -> Tensor:
    """Two runs of two individuals."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(2, 2, 3, size, size, generator=generator, dtype=torch.float64)


def random_numbers(model: nn.Module) -> None:
    """Give every parameter and statistic a number of its own: many begin as ones or zeros."""
    generator = torch.Generator().manual_seed(1)

    def drawn(tensor: Tensor) -> Tensor:
        return torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)

    for layer in model.modules():
        normalises = isinstance(layer, NORMALISING)
        for name, tensor in [*layer._parameters.items(), *layer._buffers.items()]:
            if tensor is None or not tensor.is_floating_point():
                continue
            if name in ("running_var", "weight") and normalises:
                tensor.data = 1 + 0.3 * drawn(tensor).tanh()
            elif tensor.ndim < 2 or not tensor.count_nonzero():
                tensor.data = 0.1 * drawn(tensor)


def shared(network: nn.Module, features: int, size: int = SIZE) -> SharedModel:
    """A network in double precision, with an output layer for its flattened features."""
    torch.manual_seed(0)
    model = SharedModel(
        nn.Sequential(Normalise(), network, nn.Flatten()),
        nn.Sequential(nn.Linear(features, CLASSES)),
    ).double()
    random_numbers(model)
    model.eval()
    assert model(images(size)[0]).shape == (2, CLASSES)
    return model


class WrittenOut(nn.Module):
    """Hardsigmoid, of which PyTorch has no second derivative."""

    def forward(self, given: Tensor) -> Tensor:
        return (given + 3).clamp(0, 6) / 6


def by_autograd(model: SharedModel, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Each run's gradients, one run after the other."""
    model = copy.deepcopy(model)
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Hardsigmoid):
                setattr(module, name, WrittenOut())
    names, parameters = zip(*model.named_parameters(), strict=True)
    of_runs = []
    for batch, of_batch in zip(x, labels, strict=True):
        with sdpa_kernel(SDPBackend.MATH):
            loss = functional.cross_entropy(model(batch), of_batch)
        of_runs.append(torch.autograd.grad(loss, parameters, create_graph=True))
    return {n: torch.stack(each) for n, each in zip(names, zip(*of_runs, strict=True), strict=True)}


def value(gradients: Mapping[str, Tensor]) -> Tensor:
    """A distance of the gradients: a number that every entry changes."""
    return torch.stack([(3 * g).sin().mul(g).sum() for g in gradients.values()]).sum()


def assert_as_autograd(model: SharedModel, size: int = SIZE) -> list[str]:
    """Assert agreement of gradients and slopes; return the modules with rules."""
    x = images(size)
    layers = layers_with_rules(model, x[0])
    assert layers is not None
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, _ = dummy_gradients(model, ours, LABELS, layers)
    expected = by_autograd(model, theirs, LABELS)
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)
    slopes = [
        torch.autograd.grad(value(gradients), variables)[0]
        for gradients, variables in ((found, ours), (expected, theirs))
    ]
    assert slopes[1].abs().max() > 0
    scale = slopes[1].abs().max().item()
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-10 * scale)
    return layers


# Layers


class Tokens(nn.Module):
    """Positions of an image as tokens, behind a class token, as transformers have them."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, channels, 4, stride=4)
        self.class_token = nn.Parameter(torch.zeros(1, 1, channels))
        self.positions = nn.Parameter(torch.zeros(1, 5, channels))

    def forward(self, pixels: Tensor) -> Tensor:
        tokens = self.patches(pixels).flatten(2).mT
        beside = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1)
        return beside + self.positions  # type: ignore[no-any-return]


class Attention(nn.Module):
    def __init__(self, batch_first: bool = True, bias: bool = True, weights: bool = False) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(8, 2, batch_first=batch_first, bias=bias)
        self.weights = weights

    def forward(self, tokens: Tensor) -> Tensor:
        given = tokens if self.layer.batch_first else tokens.transpose(0, 1)
        found, weights = self.layer(given, given, given, need_weights=self.weights)
        output = found if self.layer.batch_first else found.transpose(0, 1)
        return output + weights.mean() if self.weights else output  # type: ignore[no-any-return]


class Twice(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, given: Tensor) -> Tensor:
        return self.layer(self.layer(given).tanh())  # type: ignore[no-any-return]


class Scaled(nn.Module):
    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(*shape))

    def forward(self, given: Tensor) -> Tensor:
        return given * self.scale


class Viewing(nn.Module):
    """Flattens maps by a view, which only PyTorch's default layout allows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.layer(pixels).view(len(pixels), -1)  # type: ignore[no-any-return]


def tied() -> nn.Module:
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    second.weight = first.weight
    return nn.Sequential(nn.Flatten(2), nn.Linear(64, 6), first, nn.Tanh(), second)


def tied_transposed() -> nn.Module:
    """A weight of two layers of different kinds: a 1×1 convolution and a linear map."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 3, 1)
            self.scale = Scaled(3, 1, 1)
            self.second = nn.Conv2d(3, 3, 1)
            self.second.weight = self.first.weight
            self.second.bias = self.first.bias

        def forward(self, pixels: Tensor) -> Tensor:
            return self.second(self.scale(self.first(pixels)).tanh())  # type: ignore[no-any-return]

    return Tied()


LAYERS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "depthwise": (lambda: nn.Conv2d(3, 3, 3, padding=1, groups=3), 192),
    "depthwise, several kernels each": (lambda: nn.Conv2d(3, 6, 3, stride=2, groups=3), 54),
    "depthwise, all of the image": (lambda: nn.Conv2d(3, 3, (8, 7), groups=3, bias=False), 6),
    "depthwise, few positions": (lambda: nn.Conv2d(3, 3, 5, 3, dilation=(1, 1), groups=3), 12),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 1), nn.Conv2d(4, 6, (3, 5), (1, 2), (1, 2), (2, 1), groups=2)
        ),
        144,
    ),
    "as many outputs": (lambda: nn.Conv2d(3, 4, 3, padding="same", dilation=2), 256),
    "as many outputs, odd": (lambda: nn.Conv2d(3, 4, (2, 4), padding="same"), 256),
    "no padding": (lambda: nn.Conv2d(3, 4, 3, padding="valid"), 144),
    "maps as rows": (Viewing, 144),
    "mirrored": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"), 256),
    "PReLU": (nn.PReLU, 192),
    "PReLU of channels": (lambda: nn.PReLU(3), 192),
    "PReLU of features": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.PReLU(5), nn.PReLU()),
        5,
    ),
    "BatchNorm of features": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5)),
        5,
    ),
    "LayerNorm": (lambda: nn.LayerNorm((8, 8)), 192),
    "LayerNorm of tokens": (lambda: nn.Sequential(Tokens(), nn.LayerNorm(8)), 40),
    "GroupNorm": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), 144),
    "InstanceNorm": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, affine=True)),
        144,
    ),
    "transposed convolution": (lambda: nn.ConvTranspose2d(3, 2, 2, stride=2), 512),
    "attention": (lambda: nn.Sequential(Tokens(), Attention()), 40),
    "attention, batch second": (lambda: nn.Sequential(Tokens(), Attention(batch_first=False)), 40),
    "attention without biases": (lambda: nn.Sequential(Tokens(), Attention(bias=False)), 40),
    "attention with weights": (lambda: nn.Sequential(Tokens(), Attention(weights=True)), 40),
    "tokens": (Tokens, 40),
    "a factor": (lambda: Scaled(3, 1, 1), 192),
    "a layer met twice": (
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 6), Twice(nn.Linear(6, 6))),
        6,
    ),
    "a convolution met twice": (lambda: Twice(nn.Conv2d(3, 3, 3, padding=1)), 192),
    "a weight of two layers": (tied, 18),
    "a kernel of two layers": (tied_transposed, 192),
}


@pytest.mark.parametrize("little", [0, 10**12], ids=["for each run", "as groups"])
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name: str, little: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if little and not any(word in name for word in ("depthwise", "grouped")):
        pytest.skip("of convolutions in groups alone")
    monkeypatch.setattr(grouped_convolutions, "LITTLE", little)
    make, features = LAYERS[name]
    assert_as_autograd(shared(make(), features))


@pytest.mark.parametrize(
    "name", ["depthwise", "grouped", "PReLU of channels", "LayerNorm", "attention"]
)
def test_the_slope_of_a_distance_is_its_finite_difference(name: str) -> None:
    make, features = LAYERS[name]
    model = shared(make(), features)
    layers = layers_with_rules(model, images(SIZE)[0])

    def distance(x: Tensor) -> Tensor:
        return value(dummy_gradients(model, x, LABELS, layers)[0])

    assert torch.autograd.gradcheck(distance, images(SIZE).requires_grad_(), fast_mode=True)


@pytest.mark.parametrize("of_features", [False, True], ids=["maps", "features"])
def test_slopes_are_right_where_clients_normalise_by_the_batch(of_features: bool) -> None:
    """Two individuals and 36 positions, or individuals alone."""
    maps = [nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)]
    features = [nn.Flatten(), nn.Linear(192, 5), nn.BatchNorm1d(5)]
    chain = nn.Sequential(*(features if of_features else maps))
    model = in_mode(shared(chain, 5 if of_features else 144), "train")
    assert layers_with_rules(model, images(SIZE)[0]) is None
    assert_mapped_as_autograd(model)


# Networks


def without_overwriting(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return network


def headless(network: nn.Module, head: str) -> nn.Module:
    setattr(network, head, nn.Identity())
    return without_overwriting(network)


def vision_transformer() -> nn.Module:
    network = VisionTransformer(
        image_size=16, patch_size=8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=48
    )
    network.heads = nn.Identity()
    return network


class Bottleneck(nn.Module):
    """MobileFaceNet's: PReLU with a slope for each channel, and a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = 2 * channels
        self.conv = nn.Sequential(
            *(nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.PReLU(hidden)),
            nn.Conv2d(hidden, hidden, 3, 1, 1, groups=hidden, bias=False),
            *(nn.BatchNorm2d(hidden), nn.PReLU(hidden)),
            *(nn.Conv2d(hidden, channels, 1, bias=False), nn.BatchNorm2d(channels)),
        )

    def forward(self, given: Tensor) -> Tensor:
        return given + self.conv(given)  # type: ignore[no-any-return]


def face_network() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8)),
        *(Bottleneck(8), Bottleneck(8)),
        *(nn.Conv2d(8, 8, (8, 8), groups=8, bias=False), nn.BatchNorm2d(8)),
        *(nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6)),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "mobilenet_v2": (lambda: headless(mobilenet_v2(width_mult=0.1), "classifier"), 1280, 32),
    "mobilenet_v3_small": (
        lambda: headless(mobilenet_v3_small(width_mult=0.25), "classifier"),
        144,
        32,
    ),
    "resnet18": (lambda: headless(resnet18(), "fc"), 512, 16),
    "vit": (vision_transformer, 32, 16),
    "mobilefacenet": (face_network, 6, 16),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network(name: str) -> None:
    make, features, size = NETWORKS[name]
    model = shared(make(), features, size)
    layers = assert_as_autograd(model, size)
    held = {n.rpartition(".")[0] for n, _ in model.named_parameters()}
    assert set(layers) == held


@pytest.mark.parametrize("name", ["mobilefacenet", "vit"])
def test_frozen_parameters_are_in_no_gradient_and_the_others_stay_the_same(name: str) -> None:
    make, features, size = NETWORKS[name]
    model = shared(make(), features, size)
    layers = layers_with_rules(model, images(size)[0])
    whole, _ = dummy_gradients(model, images(size), LABELS, layers)
    # Every second parameter, weights and biases of a layer apart, becomes a buffer.
    for parameter in list(whole)[::2]:
        path, _, last = parameter.rpartition(".")
        layer = model.get_submodule(path)
        value = getattr(layer, last).detach()
        delattr(layer, last)
        layer.register_buffer(last, value)
    assert_as_autograd(model, size)
    layers = layers_with_rules(model, images(size)[0])
    found, _ = dummy_gradients(model, images(size), LABELS, layers)
    assert list(found) == list(whole)[1::2]
    for parameter, gradient in found.items():
        torch.testing.assert_close(gradient, whole[parameter], rtol=1e-12, atol=1e-14)


def assert_mapped_as_autograd(model: SharedModel, size: int = SIZE) -> None:
    """Assert agreement of gradients and slopes where the whole model is mapped."""
    x, y = images(size).requires_grad_(), images(size).requires_grad_()
    found, _ = dummy_gradients(model, x, LABELS, None)
    expected = by_autograd(model, y, LABELS)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)
    slopes = [torch.autograd.grad(value(g), v)[0] for g, v in ((found, x), (expected, y))]
    scale = slopes[1].abs().max().item()
    assert scale > 0
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-10 * scale)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_can_be_mapped_too(name: str) -> None:
    """PyTorch's slopes of normalising layers are wrong there, and it says nothing."""
    make, features = LAYERS[name]
    assert_mapped_as_autograd(shared(make(), features))


@pytest.mark.parametrize("name", ["vit", "mobilenet_v3_small"])
def test_a_network_can_be_mapped_too(name: str) -> None:
    make, features, size = NETWORKS[name]
    assert_mapped_as_autograd(shared(make(), features, size), size)


BACKBONES = ["efficientnet_lite0", "mobilefacenet", "mobilenet_v3_small", "resnet50", "vit_small"]


@pytest.mark.parametrize("name", BACKBONES)
def test_gradients_of_a_pretrained_network_are_had_layer_by_layer(name: str) -> None:
    torch.manual_seed(0)
    model = build(MODELS, name, {"input_size": 32}).build(CLASSES, 32, "convolutions").eval()
    assert layers_with_rules(model, torch.rand(1, 3, 32, 32)) is not None


# Models that are mapped


class Centred(nn.Module):
    """Subtracts what individuals of a batch have in common."""

    def forward(self, features: Tensor) -> Tensor:
        return features - features.mean(0)


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        mask = torch.ones(5, 5, dtype=torch.bool).triu(1)
        found, _ = self.layer(tokens, tokens, tokens, attn_mask=mask)
        return found  # type: ignore[no-any-return]


class Temperature(nn.Module):
    """A factor that stands for no individual and has no child, of any number of axes."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))
        self.child = nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        return self.child(pixels * self.factor)  # type: ignore[no-any-return]


class Secret(nn.Module):
    """Uses its child's weight without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.child = nn.Linear(192, 5)

    def forward(self, pixels: Tensor) -> Tensor:
        return functional.linear(pixels.flatten(1), self.child.weight, self.child.bias)


MAPPED: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "individuals are mixed": (lambda: nn.Sequential(nn.Conv2d(3, 2, 3), Centred()), 72),
    "attention with a mask": (lambda: nn.Sequential(Tokens(), Masked()), 40),
    "a number of a larger module": (Temperature, 192),
    "a layer that is not called": (Secret, 5),
}


@pytest.mark.parametrize("why", MAPPED)
def test_a_model_that_its_layers_do_not_explain_is_mapped(why: str) -> None:
    make, features = MAPPED[why]
    model = shared(make(), features)
    assert layers_with_rules(model, images(SIZE)[0]) is None
    assert_mapped_as_autograd(model)
