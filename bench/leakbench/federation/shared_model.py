"""Shared models f = f_c ∘ f_n, each split into a feature extractor and a classifier."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from leakbench.base.errors import UsageError
from leakbench.federation.loss import PLAIN, Loss


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

    Attributes:
        loss: of the main task, which clients differentiate.
    """

    loss: Loss = PLAIN

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
        splits: names of the layers after which f can be split into f_n and f_c, the default first;
            `check` may accept more.
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
            split: a layer's name, checked.
        """

    def check(self, size: int, split: str) -> None:
        """Refuse an image size or a split that the model does not support.

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


ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
"""Names of activations → modules."""


Watch = Callable[[str, tuple[Any, ...], Tensor], None]
"""Callback with a module's name, its arguments and its output."""


@contextmanager
def watched(modules: Mapping[str, nn.Module], watch: Watch) -> Iterator[None]:
    """Call `watch` after every forward pass of each of the modules."""

    def hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Tensor], None]:
        return lambda _module, inputs, output: watch(name, inputs, output)

    handles = [module.register_forward_hook(hook(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


IMAGES_AT_ONCE = 64
"""Whose activations are in memory together where no gradient is asked for.

With 256 a MobileFaceNet needs a gigabyte more, and is slower.
"""


def deep_features(model: SharedModel, images: Tensor) -> Tensor:
    """Return E(images), shape (n, d), computed without gradients."""
    with torch.no_grad():
        return torch.cat([model.features(part) for part in _parts(images)])


def main_task_hits(model: SharedModel, images: Tensor, labels: Tensor) -> Tensor:
    """Return whether the model classifies each image correctly, shape (n,)."""
    with torch.no_grad():
        predicted = [model.loss.predicted(model(part)) for part in _parts(images)]
    return torch.cat(predicted) == labels


def _parts(images: Tensor) -> list[Tensor]:
    return [images[i : i + IMAGES_AT_ONCE] for i in range(0, len(images), IMAGES_AT_ONCE)]
