"""ResNet-18, with a stem for small images where it is not pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import nn

from leakbench.base.plugins import FlatParameters
from leakbench.base.registry import register_model
from leakbench.federation.backbones.backbone import Backbone, Network
from leakbench.federation.backbones.input import CENTRED, WHOLE, Normalisation
from leakbench.federation.backbones.residual import residual_network
from leakbench.federation.shared_model import Architecture, Normalise


@register_model("resnet18")
@dataclass(frozen=True, kw_only=True)
class ResNet18(Backbone, FlatParameters):
    """ResNet-18 with BatchNorm (torchvision), its last maps averaged (d = 512).

    Without pretrained weights it takes images as they are, in [-1, 1], and has below 128 px the
    usual stem for small images: a 3×3 convolution without pooling.

    Attributes:
        input_size: None for the images' own size, with pretrained weights 128.
        hidden_layers: hidden layers of the head; by default there is none.
    """

    reference = "He, Zhang, Ren, Sun 2016, Deep Residual Learning for Image Recognition (CVPR)"
    splits = ("convolutions", "layer2", "layer3")
    last = "layer4"
    ignored = ("fc",)
    smallest_input = 16
    example_parameters: ClassVar = {}

    hidden_layers: Annotated[int, Field(ge=0)] = 0

    @classmethod
    def flat_names(cls, given: Mapping[str, Any]) -> list[str]:  # noqa: ARG003
        """Return the names of all parameters."""
        return [each.name for each in fields(cls)]

    @classmethod
    def from_flat(cls, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters: they are its fields."""
        return dict(parameters)

    def to_flat(self) -> dict[str, Any]:
        """Return the parameters that differ from their defaults.

        Records were published before it had any: a cell with the defaults keeps its key.
        """
        values = {each.name: (getattr(self, each.name), each.default) for each in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}

    @property
    def constants(self) -> Normalisation:
        """The normalisation: ImageNet's with pretrained weights, else to [-1, 1]."""
        return CENTRED if self.weights == "none" else super().constants

    def input_shape(self, size: int) -> tuple[int, int]:
        """Return height and width of the network's input."""
        if self.weights == "none" and self.input_size is None:
            return size, size
        return super().input_shape(size)

    def entry(self, size: int) -> nn.Module:
        """Return what images of a size pass through before the network."""
        untouched = self.input_shape(size) == (size, size) and self.box == WHOLE
        # Without constants of its own: the weights of earlier trainings are cached by their names.
        return Normalise() if self.weights == "none" and untouched else super().entry(size)

    def check_input(self, size: int) -> None:
        """Refuse an input size that the network does not support.

        Raises:
            UsageError: names the value and the choices.
        """
        super().check_input(size)
        if self.input_shape(size) == (size, size):
            Architecture.check(self, size, "convolutions")

    def network(self, classes: int, height: int, width: int) -> Network:
        """Return ResNet-18; d = 512."""
        from torchvision.models import resnet18

        network = resnet18(weights=None, num_classes=classes)
        if self.weights == "none" and max(height, width) < 128:
            network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            network.maxpool = nn.Identity()
        return residual_network(network)
