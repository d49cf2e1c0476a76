"""Shared models f = f_c ∘ f_n, each split into a feature extractor and a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from bench.errors import UsageError
from bench.registry import register_model


class Normalise(nn.Module):
    """Map pixels from [0, 1] to [-1, 1], with constants that depend on no data."""

    def forward(self, images: Tensor) -> Tensor:
        """Return 2·images − 1, same shape."""
        return 2 * images - 1


class SharedModel(nn.Module):
    """f = f_c ∘ f_n. Parameter names begin with `extractor.` (g_n) or `classifier.` (g_c).

    Args:
        extractor: f_n, maps images (n, 3, size, size) in [0, 1] to deep features (n, d).
        classifier: f_c, maps deep features (n, d) to logits (n, classes); its last module is the
            output layer, a linear one with bias.
    """

    def __init__(self, extractor: nn.Module, classifier: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor
        self.classifier = classifier

    @property
    def output_bias(self) -> str:
        """The name of the output layer's bias."""
        return [name for name, _ in self.named_parameters()][-1]

    def features(self, images: Tensor) -> Tensor:
        """Return deep features E(X) = f_n(X), shape (n, d)."""
        return self.extractor(images)  # type: ignore[no-any-return]

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, shape (n, classes)."""
        return self.classifier(self.extractor(images))  # type: ignore[no-any-return]


class Architecture(ABC):
    """A registered model. Subclasses are frozen dataclasses: their fields are its parameters.

    Attributes:
        name: set by the registry.
        reference: the publication it comes from.
        splits: the places where f can be split into f_n and f_c, the default first.
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    splits: ClassVar[tuple[str, ...]] = ("convolutions",)

    @abstractmethod
    def build(self, classes: int, size: int, split: str) -> SharedModel:
        """Return the untrained model; the caller seeds PyTorch's global generator.

        Args:
            classes: number K of main-task classes.
            size: height and width of the images, checked.
            split: one of `splits`, checked.
        """

    def check(self, size: int, split: str) -> None:
        """Refuse an image size or a split that the model does not have.

        Raises:
            UsageError: names the value and the choices.
        """
        if size % 8 or not 16 <= size <= 256:
            raise UsageError(f"image size {size} does not fit {self.name}; use 32, 64 or 128")
        if split not in self.splits:
            raise UsageError(
                f"model {self.name} cannot be split after {split!r}; choose from "
                f"{', '.join(self.splits)}"
            )


@register_model("lenet")
@dataclass(frozen=True, kw_only=True)
class LeNet(Architecture):
    """The sigmoid LeNet of DLG: three 5×5 convolutions of 12 channels and one linear layer.

    It takes pixels in [0, 1] as they are, as in the paper: with pixels in [-1, 1] L-BFGS hardly
    ever converges on it.

    Attributes:
        spread: weights and biases start uniform in ± this.
    """

    reference = "Zhu, Liu, Han 2019, Deep Leakage from Gradients (NeurIPS)"

    spread: float = 0.5

    def build(self, classes: int, size: int, split: str) -> SharedModel:  # noqa: ARG002
        """Return LeNet; d = 12 · (size / 4)²."""
        layers: list[nn.Module] = []
        for inputs, stride in ((3, 2), (12, 2), (12, 1)):
            layers += [nn.Conv2d(inputs, 12, 5, stride=stride, padding=2), nn.Sigmoid()]
        output = nn.Linear(12 * (size // 4) ** 2, classes)
        model = SharedModel(nn.Sequential(*layers, nn.Flatten()), nn.Sequential(output))
        for parameter in model.parameters():
            nn.init.uniform_(parameter, -self.spread, self.spread)
        return model


@register_model("small_cnn")
@dataclass(frozen=True, kw_only=True)
class SmallCNN(Architecture):
    """The CNN of UL: three 3×3 convolutions with pooling, a hidden layer, an output layer.

    Split after the convolutions, E(X) is the input of the hidden layer; split after the hidden
    layer, its 256 activations. UL pools by maximum. The default here is the average, since
    matching the gradient of a max-pooled network hardly converges, so that no attack of this kind
    can be told from another on it.

    Attributes:
        width: channels of the first convolution, doubled by each of the next two; UL has 32.
        hidden: units of the hidden layer.
        pooling: `average` or `max`.
        batch_norm: whether a BatchNorm layer follows each convolution; UL has none.
    """

    reference = (
        "Melis, Song, De Cristofaro, Shmatikov 2019, Exploiting Unintended Feature Leakage in "
        "Collaborative Learning (IEEE S&P)"
    )
    splits = ("convolutions", "hidden")

    width: Annotated[int, Field(gt=0)] = 32
    hidden: Annotated[int, Field(gt=0)] = 256
    pooling: Literal["average", "max"] = "average"
    batch_norm: bool = False

    def build(self, classes: int, size: int, split: str) -> SharedModel:
        """Return the CNN; d = 4 · width · (size / 8)² before the hidden layer."""
        channels = [3, self.width, 2 * self.width, 4 * self.width]
        layers: list[nn.Module] = [Normalise()]
        for inputs, outputs in pairwise(channels):
            pool = nn.AvgPool2d(2) if self.pooling == "average" else nn.MaxPool2d(2)
            normalise = [nn.BatchNorm2d(outputs)] if self.batch_norm else []
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), *normalise, nn.ReLU(), pool]
        layers.append(nn.Flatten())
        hidden = self._hidden(channels[-1] * (size // 8) ** 2)
        output = nn.Linear(self.hidden, classes)
        for layer in (*layers, *hidden):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                # He initialisation: with PyTorch's default, plain SGD takes thousands of rounds.
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.constant_(layer.bias, 0.0)  # type: ignore[arg-type]
        if split == "hidden":
            return SharedModel(nn.Sequential(*layers, *hidden), nn.Sequential(output))
        return SharedModel(nn.Sequential(*layers), nn.Sequential(*hidden, output))

    def _hidden(self, features: int) -> list[nn.Module]:
        """Return what is between the convolutions, of so many features, and the output layer."""
        return [nn.Linear(features, self.hidden), nn.ReLU()]


@register_model("small_cnn_mlp")
@dataclass(frozen=True, kw_only=True)
class SmallCNNWithMLP(SmallCNN):
    """The CNN of UL with other hidden layers between the convolutions and the output layer.

    Attributes:
        hidden_layers: how many, of `hidden` units each.
        activation: after each of them; the convolutions keep ReLU.
    """

    hidden_layers: Annotated[int, Field(gt=0)] = 2
    activation: Literal["relu", "leaky_relu", "gelu", "silu", "tanh"] = "relu"

    def _hidden(self, features: int) -> list[nn.Module]:
        """Return the hidden layers."""
        layers: list[nn.Module] = []
        for inputs in [features, *[self.hidden] * (self.hidden_layers - 1)]:
            layers += [nn.Linear(inputs, self.hidden), ACTIVATIONS[self.activation]()]
        return layers


@register_model("resnet18")
@dataclass(frozen=True, kw_only=True)
class ResNet18(Architecture):
    """ResNet-18 with BatchNorm (torchvision), split before its linear layer (d = 512).

    Below 128 px its stem is the usual one for small images: a 3×3 convolution without pooling.
    """

    reference = "He, Zhang, Ren, Sun 2016, Deep Residual Learning for Image Recognition (CVPR)"

    def build(self, classes: int, size: int, split: str) -> SharedModel:  # noqa: ARG002
        """Return ResNet-18."""
        from torchvision.models import resnet18

        network = resnet18(weights=None, num_classes=classes)
        if size < 128:
            network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            network.maxpool = nn.Identity()
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                # Differentiating twice through an activation forbids computing it in place.
                module.inplace = False
        output = network.fc
        network.fc = nn.Identity()
        return SharedModel(nn.Sequential(Normalise(), network), nn.Sequential(output))


ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
"""Names of activations → modules."""


Watch = Callable[[str, tuple[Any, ...], Tensor], None]
"""A module's name, its arguments and its output, to whatever is kept of them."""


@contextmanager
def watched(modules: Mapping[str, nn.Module], watch: Watch) -> Iterator[None]:
    """Call `watch` whenever one of the modules is met in a forward pass."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda _module, inputs, output: watch(name, inputs, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def deep_features(model: SharedModel, images: Tensor, batch: int = 256) -> Tensor:
    """Return E(images), shape (n, d), computed in batches without gradients."""
    with torch.no_grad():
        parts = [model.features(images[i : i + batch]) for i in range(0, len(images), batch)]
    return torch.cat(parts)
