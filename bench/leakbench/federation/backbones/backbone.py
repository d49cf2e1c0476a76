"""The base of pretrained networks: their shared parameters, and how a shared model is assembled."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from leakbench.base.errors import UsageError
from leakbench.federation.backbones.chain import cut, leaves_before, stage_shapes, stages
from leakbench.federation.backbones.freezing import freeze
from leakbench.federation.backbones.head import head
from leakbench.federation.backbones.input import IMAGENET, WHOLE, Box, Input, Normalisation
from leakbench.federation.backbones.weight_sources import Weights, load_strictly, tensors_of
from leakbench.federation.shared_model import Architecture, SharedModel

POOLED = "convolutions"
"""The default split: right before the head, after what the network pools or picks."""


@dataclass(frozen=True)
class Network:
    """A network without its head.

    Attributes:
        chain: its stages by name; the last one returns deep features, shape (n, features).
        features: number d of deep features.
        output: the output layer as the network's own initialisation draws it, if that differs.
    """

    chain: nn.Sequential
    features: int
    output: nn.Linear | None = None


@dataclass(frozen=True, kw_only=True)
class Backbone(Architecture):
    """A network that clients take pretrained, with a new head, and train all of or a part.

    Frozen parameters are buffers: `named_parameters()` are those that clients train and send.
    Frozen BatchNorm layers keep their running statistics, in training mode too.

    Class attributes: `normalisation`, mean and deviation of pixels; `default_input` and
    `smallest_input`, in pixels; `last`, the stage at which the last block begins; `ignored`, the
    first parts of names of a file's tensors that the network does without, those of its old head.

    Attributes:
        weights: `none` for random ones, or where pretrained ones come from.
        input_size: height of the network's input in pixels, its width in the network's proportion;
            None for the network's own default. Images are resized to it, bilinearly.
        crop: the part of the image that is resized: left, upper, right and lower edge as shares of
            its width and height; or `none` for all of it.
        hidden: units of each hidden layer of the head.
        hidden_layers: hidden layers of the head; 0 for one linear layer.
        activation: after each hidden layer.
        trained: what clients train: `all`, `last` for the network's last block and the head, or
            `head`.
    """

    normalisation: ClassVar[Normalisation] = IMAGENET
    default_input: ClassVar[tuple[int, int]] = (128, 128)
    smallest_input: ClassVar[int] = 32
    last: ClassVar[str]
    ignored: ClassVar[tuple[str, ...]] = ()
    example_parameters: ClassVar[Mapping[str, object]] = {"input_size": 32, "hidden": 16}

    weights: Weights = "none"
    input_size: Annotated[int, Field(gt=0)] | None = None
    crop: Box | Literal["none"] = "none"
    hidden: Annotated[int, Field(gt=0)] = 256
    hidden_layers: Annotated[int, Field(ge=0)] = 1
    activation: Literal["relu", "leaky_relu", "gelu", "silu", "tanh"] = "relu"
    trained: Literal["all", "last", "head"] = "all"

    def __post_init__(self) -> None:
        left, upper, right, lower = self.box
        if not (0 <= left < right <= 1 and 0 <= upper < lower <= 1):
            raise ValueError(
                "crop must be left, upper, right and lower edge, in [0, 1], left below right and "
                "upper below lower"
            )

    @abstractmethod
    def network(self, classes: int, height: int, width: int) -> Network:
        """Return the network with random weights, for an input of this size.

        Args:
            classes: number K of main-task classes.
            height, width: of the network's input.
        """

    @property
    def box(self) -> Box:
        """The part of the image that is resized."""
        return WHOLE if self.crop == "none" else self.crop

    @property
    def constants(self) -> Normalisation:
        """The constants by which pixels are normalised."""
        return self.normalisation

    def input_shape(self, size: int) -> tuple[int, int]:  # noqa: ARG002
        """Return height and width of the network's input.

        Args:
            size: height and width of the images.
        """
        height, width = self.default_input
        if self.input_size is None:
            return height, width
        return self.input_size, max(1, round(self.input_size * width / height))

    def entry(self, size: int) -> nn.Module:
        """Return what images of a size pass through before the network."""
        return Input(size, self.input_shape(size), self.box, self.constants)

    def named(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a file's tensors under their names in the chain; by default they are the same."""
        return tensors

    def check(self, size: int, split: str) -> None:
        """Refuse an input size or a split that the network does not support.

        Raises:
            UsageError: names the value and the choices, the nearest splits first.
        """
        self.check_input(size)
        with torch.device("meta"):
            network = self.network(2, *self.input_shape(size))
        known = [POOLED, *(name for name, _ in stages(network.chain))]
        if split not in known:
            near = get_close_matches(split, known, n=3, cutoff=0.4) or list(self.splits)
            raise UsageError(
                f"model {self.name} cannot be split after {split!r}; did you mean "
                f"{', '.join(near)}? `leakbench show {self.name}` lists all"
            )

    def check_input(self, size: int) -> None:
        """Refuse an input size that the network does not support.

        Args:
            size: height and width of the images.

        Raises:
            UsageError: names the value and the least.
        """
        least = min(self.input_shape(size))
        if least < self.smallest_input:
            raise UsageError(
                f"model {self.name} takes no input of {least} px; set model.input_size so that "
                f"height and width are at least {self.smallest_input}"
            )

    def build(self, classes: int, size: int, split: str) -> SharedModel:
        """Return the model, its network with the pretrained weights that `weights` names.

        Raises:
            UsageError: the weights cannot be had, or are another network's.
        """
        network = self.network(classes, *self.input_shape(size))
        if self.weights != "none":
            tensors = self.named(tensors_of(self.weights, self.name))
            load_strictly(network.chain, tensors, self.name, self.ignored)
        return self.assembled(network, classes, size, split)

    def assembled(self, network: Network, classes: int, size: int, split: str) -> SharedModel:
        """Return the network with its head, split, and frozen where it is not trained."""
        chain = network.chain
        if self.trained != "all":
            names = [n for n, module in stages(chain) if type(module) is not nn.Sequential]
            for name in names if self.trained == "head" else leaves_before(chain, self.last):
                freeze(chain, name)
        layers = head(
            network.features,
            classes,
            self.hidden,
            self.hidden_layers,
            self.activation,
            network.output,
        )
        entry = self.entry(size)
        if split == POOLED:
            return SharedModel(nn.Sequential(entry, chain), nn.Sequential(*layers))
        before, after = cut(chain, split)
        shape = stage_shapes(chain, (3, *self.input_shape(size)))[split]
        return SharedModel(
            nn.Sequential(entry, before, nn.Flatten()),
            nn.Sequential(nn.Unflatten(1, shape), after, *layers),
        )
