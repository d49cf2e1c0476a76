"""Pretrained networks as shared models: what clients train, where models split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional

from leakbench.base.documents import as_text, plain
from leakbench.base.errors import UsageError
from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import MODELS
from leakbench.experiments.plugin_catalogue import description
from leakbench.federation.backbones.backbone import Backbone
from leakbench.federation.backbones.chain import stages
from leakbench.federation.backbones.weight_sources import load_strictly
from leakbench.federation.batch_norm import batch_norm_layers, batch_statistics, in_mode
from leakbench.federation.client import client_update
from leakbench.federation.models.efficientnet_lite0 import EfficientNetLite0
from leakbench.federation.models.mobilefacenet import MobileFaceNet
from leakbench.federation.models.mobilenet_v2 import MobileNetV2
from leakbench.federation.models.resnet18 import ResNet18
from leakbench.federation.models.vit_small import ViTSmall
from leakbench.federation.shared_model import SharedModel

CLASSES, SIZE = 8, 32

FEATURES = {
    "efficientnet_lite0": 1280,
    "mobilefacenet": 512,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 576,
    "resnet18": 512,
    "resnet50": 2048,
    "vit_b_16": 768,
    "vit_small": 384,
}

SMALL = [name for name in FEATURES if name != "vit_b_16"]
"""Of which many can be built in a second."""

FILE = Path(__file__).resolve().parents[2] / "shared/data/backbones/mobilefacenet.safetensors"


def model_of(name: str, **parameters: Any) -> Backbone:
    given = {"input_size": SIZE, "hidden": 16, "hidden_layers": 1, **parameters}
    return build(MODELS, name, given)  # type: ignore[no-any-return]


def built(name: str, split: str = "convolutions", **parameters: Any) -> SharedModel:
    torch.manual_seed(0)
    return model_of(name, **parameters).build(CLASSES, SIZE, split)


def images(individuals: int = 2, size: int = SIZE) -> Tensor:
    draw = torch.Generator().manual_seed(1)
    return torch.rand(individuals, 3, size, size, generator=draw)


def test_these_are_the_pretrained_networks() -> None:
    found = {name for name in MODELS.own() if issubclass(MODELS.get(name), Backbone)}
    assert found == set(FEATURES)


@pytest.mark.parametrize(("name", "features"), FEATURES.items())
def test_deep_features_are_what_comes_before_the_head(name: str, features: int) -> None:
    model = built(name).eval()
    assert model.features(images()).shape == (2, features)
    assert model(images()).shape == (2, CLASSES)
    assert [type(layer) for layer in model.classifier] == [nn.Linear, nn.ReLU, nn.Linear]


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "resnet18", "resnet50"])
def test_the_network_has_the_parameters_of_torchvision(name: str) -> None:
    whole = torchvision.models.get_model(name, weights=None)
    head = whole.fc if hasattr(whole, "fc") else whole.classifier
    expected = count(whole) - count(head)
    assert count(pretrained(name).extractor) == expected


@pytest.mark.parametrize(("name", "image_size"), [("vit_b_16", 224), ("vit_small", 64)])
def test_a_transformer_has_the_parameters_of_torchvision(name: str, image_size: int) -> None:
    with torch.device("meta"):
        model = model_of(name, input_size=image_size)
        found = count(model.network(CLASSES, image_size, image_size).chain)
        if name == "vit_b_16":
            whole = torchvision.models.vit_b_16(weights=None)
        else:
            whole = torchvision.models.VisionTransformer(64, 8, 12, 6, 384, 1536)
    assert found == count(whole) - count(whole.heads)


def pretrained(name: str) -> SharedModel:
    """The model as it is with pretrained weights, whose stem is that of their network."""
    model = model_of(name, weights="download")
    network = model.network(CLASSES, SIZE, SIZE)
    return model.assembled(network, CLASSES, SIZE, "convolutions")


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "resnet18", "resnet50"])
def test_weights_of_torchvision_give_its_features(name: str) -> None:
    torch.manual_seed(2)
    whole = torchvision.models.get_model(name, weights=None).eval()
    model = model_of(name, weights="download")
    chain = model.network(CLASSES, SIZE, SIZE).chain
    load_strictly(chain, model.named(whole.state_dict()), name, model.ignored)
    pixels = images()
    expected = before_head(whole, pixels)
    assert torch.allclose(chain.eval()(pixels), expected, rtol=1e-4, atol=1e-6)


def before_head(whole: nn.Module, pixels: Tensor) -> Tensor:
    """What the first linear layer of a network's head receives."""
    head = whole.fc if hasattr(whole, "fc") else whole.classifier  # type: ignore[union-attr]
    seen: list[Tensor] = []
    head.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    with torch.no_grad():
        whole(pixels)
    return seen[0]


def test_weights_of_torchvision_give_its_class_token_at_the_resized_positions() -> None:
    torch.manual_seed(2)
    whole = torchvision.models.VisionTransformer(32, 8, 12, 6, 384, 1536).eval()
    nn.init.normal_(whole.class_token)
    model = ViTSmall(input_size=32)
    chain = model.network(CLASSES, 32, 32).chain.eval()
    load_strictly(chain, model.named(whole.state_dict()), "vit_small", model.ignored)
    seen: list[Tensor] = []
    whole.heads.register_forward_pre_hook(lambda _module, given: seen.append(given[0]))
    with torch.no_grad():
        whole(images())
        assert torch.allclose(chain(images()), seen[0], atol=1e-4)
    larger = replace(model, input_size=48)
    resized = larger.named(whole.state_dict())
    assert resized["positions.embedding"].shape == (1, 37, 384)
    load_strictly(larger.network(CLASSES, 48, 48).chain, resized, "vit_small", model.ignored)


def test_resnet18_at_its_defaults_is_what_published_records_measured() -> None:
    assert parameters_of(ResNet18()) == {}
    assert parameters_of(ResNet18(trained="head")) == {"trained": "head"}
    torch.manual_seed(3)
    model = ResNet18().build(CLASSES, SIZE, "convolutions")
    torch.manual_seed(3)
    whole = torchvision.models.resnet18(weights=None, num_classes=CLASSES)
    whole.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
    whole.maxpool = nn.Identity()
    expected = {
        f"classifier.0.{name.removeprefix('fc.')}"
        if name.startswith("fc.")
        else f"extractor.1.{name}": value
        for name, value in whole.state_dict().items()
    }
    found = model.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], value) for name, value in expected.items())
    with torch.no_grad():
        assert torch.equal(model.eval()(images()), whole.eval()(2 * images() - 1))


@pytest.mark.parametrize("name", SMALL)
def test_frozen_parts_are_in_no_update(name: str) -> None:
    of = {trained: built(name, trained=trained).eval() for trained in ("all", "last", "head")}
    sent = {trained: client_update(m, images(), torch.arange(2)) for trained, m in of.items()}
    head = {name for name in sent["all"] if name.startswith("classifier.")}
    assert set(sent["head"]) == head
    last = [n for n in sent["last"] if n not in head]
    assert last
    assert all(n.removeprefix("extractor.1.").startswith(_last(name)) for n in last)
    assert len(last) < len(sent["all"]) - len(head)
    # Freezing changes what is sent, not what is computed.
    for trained in ("last", "head"):
        for each, value in sent[trained].items():
            assert torch.allclose(value, sent["all"][each], rtol=1e-3, atol=1e-5), each


def _last(name: str) -> tuple[str, ...]:
    last = MODELS.get(name).last
    return (last, "encoder.ln") if name.startswith("vit") else (last, "bn1")


def test_frozen_batch_norm_stays_in_evaluation_mode() -> None:
    model = built("mobilenet_v2", trained="head")
    before = model.eval().features(images(4))
    model.train()
    statistics = {n: v.clone() for n, v in model.named_buffers()}
    assert torch.equal(model.features(images(4)), before)
    assert all(torch.equal(v, statistics[n]) for n, v in model.named_buffers())
    assert not batch_norm_layers(model)
    assert in_mode(model, "train") is model


def test_batch_norm_of_the_last_block_alone_normalises_by_the_batch() -> None:
    model = built("mobilefacenet", trained="last").eval()
    assert list(batch_norm_layers(model)) == ["extractor.1.conv2.bn"]
    by_batch = in_mode(model, "train")
    assert list(batch_statistics(by_batch, images(4))) == ["extractor.1.conv2.bn"]
    assert not torch.allclose(by_batch.features(images(4)), model.features(images(4)))


@pytest.mark.parametrize("name", SMALL)
def test_a_split_anywhere_leaves_the_model_the_same(name: str) -> None:
    whole = built(name).eval()(images())
    network = model_of(name).network(CLASSES, *model_of(name).input_shape(SIZE))
    names = [stage for stage, _ in stages(network.chain)]
    for split in (names[0], names[len(names) // 2], names[-4]):
        model_of(name).check(SIZE, split)
        model = built(name, split).eval()
        assert model.features(images()).ndim == 2
        assert torch.allclose(model(images()), whole, rtol=1e-4, atol=1e-5), split


@pytest.mark.parametrize("name", SMALL)
def test_runs_are_mapped_and_differentiated_twice(name: str) -> None:
    model = built(name).eval()
    weights = {n: p.detach() for n, p in model.named_parameters()}
    buffers = dict(model.named_buffers())
    labels = torch.tensor([[0, 1], [2, 3]])
    pixels = torch.stack([images(), images().flip(-1)])

    def loss(parameters: Mapping[str, Tensor], shown: Tensor, classes: Tensor) -> Tensor:
        logits = functional_call(model, {**parameters, **buffers}, (shown,))
        return functional.cross_entropy(logits, classes)

    def slope(shown: Tensor) -> Tensor:
        def size(each: Tensor) -> Tensor:
            update = vmap(grad(loss), in_dims=(None, 0, 0))(weights, each, labels)
            return sum((value.square().sum() for value in update.values()), torch.zeros(()))

        found: Tensor = grad(size)(shown)
        return found

    found = slope(pixels)
    assert bool(found.isfinite().all())
    assert bool(found.any())


def test_the_head_is_a_setting() -> None:
    none = built("mobilefacenet", hidden_layers=0)
    assert [type(layer) for layer in none.classifier] == [nn.Linear]
    two = built("mobilefacenet", hidden_layers=2, hidden=5, activation="tanh")
    kinds = [nn.Linear, nn.Tanh, nn.Linear, nn.Tanh, nn.Linear]
    assert [type(layer) for layer in two.classifier] == kinds
    assert two.classifier[2].weight.shape == (5, 5)  # type: ignore[index,union-attr]


def test_mobilefacenet_loads_its_file_but_for_the_two_layers_that_it_does_without() -> None:
    if not FILE.exists():
        pytest.skip(f"{FILE} is not there")
    model = MobileFaceNet()
    chain = model.network(CLASSES, 112, 96).chain.eval()
    tensors = load_file(FILE)
    load_strictly(chain, model.named(tensors), model.name, model.ignored)
    own = chain.state_dict()
    left_out = {name for name in tensors if name not in own}
    assert {name.partition(".")[0] for name in left_out} == {"linear7", "linear1"}
    assert all(torch.equal(own[name], tensors[name]) for name in own)
    with torch.no_grad():
        assert chain(torch.zeros(1, 3, 112, 96)).shape == (1, 512)
        assert chain(torch.zeros(1, 3, 32, 27)).shape == (1, 512)


def test_weights_of_another_network_are_refused() -> None:
    tensors = MobileNetV2().network(CLASSES, SIZE, SIZE).chain.state_dict()
    chain = MobileFaceNet().network(CLASSES, SIZE, SIZE).chain
    with pytest.raises(UsageError, match="the weights of model mobilefacenet do not fit it"):
        load_strictly(chain, tensors, "mobilefacenet")


@pytest.mark.parametrize("size", [128, 65])
def test_efficientnet_lite0_agrees_with_the_package_of_its_weights(size: int) -> None:
    package = pytest.importorskip("efficientnet_lite_pytorch")
    whole = package.EfficientNet.from_name("efficientnet-lite0", image_size=size).eval()
    model = EfficientNetLite0()
    network = model.network(1000, size, size)
    load_strictly(network.chain, model.named(whole.state_dict()), model.name, model.ignored)
    with torch.no_grad():
        features = network.chain.eval()(images(size=size))
        assert torch.allclose(whole._fc(features), whole(images(size=size)), atol=1e-5)


def test_an_unknown_split_is_refused_with_near_names() -> None:
    with pytest.raises(
        UsageError,
        match=r"model mobilenet_v2 cannot be split after 'feature\.3'; did you mean features\.3",
    ):
        model_of("mobilenet_v2").check(64, "feature.3")
    with pytest.raises(UsageError, match="did you mean convolutions, layer2, layer3"):
        model_of("resnet50").check(64, "???")


@pytest.mark.parametrize(
    ("name", "parameters", "sentence"),
    [
        ("resnet50", {"input_size": 16}, "model resnet50 takes no input of 16 px; set model.inp"),
        ("vit_b_16", {"input_size": 40}, "patches of 16 px, and 40 px are no multiple of it"),
        ("vit_small", {"patch": 24}, "patches of 24 px, and 64 px are no multiple of it"),
        ("mobilefacenet", {"crop": (0.5, 0, 0.5, 1)}, "crop must be left, upper, right and lower"),
        ("mobilefacenet", {"crop": (0, 0, 1, 1.1)}, "crop must be left, upper, right and lower"),
        ("mobilenet_v2", {"hidden_layers": -1}, "hidden_layers: input should be greater than or"),
        ("mobilenet_v2", {"trained": "some"}, "trained: input should be 'all', 'last' or 'head'"),
    ],
)
def test_what_does_not_fit_is_refused(name: str, parameters: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        build(MODELS, name, parameters).check(64, "convolutions")


def test_an_image_size_that_resnet18_cannot_take_as_it_is_is_resized_if_asked() -> None:
    with pytest.raises(UsageError, match="image size 70 does not fit resnet18"):
        ResNet18().check(70, "convolutions")
    ResNet18(input_size=64).check(70, "convolutions")
    assert ResNet18(input_size=64).build(CLASSES, 70, "convolutions").eval()(
        images(size=70)
    ).shape == (2, CLASSES)


def test_show_says_input_parameters_splits_and_what_is_trained() -> None:
    text = as_text(description("mobilefacenet"), plain)
    for part in (
        "Input: 112×96 (height × width)",
        "from 19.9 % to 79.6 % of its width",
        "911,232 in the network and 133,384 in the head for 8 classes",
        "clients train all of it",
        "convolutions   512",
        "blocks.4       43,008 (64×28×24)",
        "conv2.prelu",
    ):
        assert part in text, part
    assert "Input: 224×224" in as_text(description("vit_b_16"), plain)
