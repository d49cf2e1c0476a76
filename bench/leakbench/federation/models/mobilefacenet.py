"""MobileFaceNet, trained to verify faces."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from leakbench.base.registry import register_model
from leakbench.federation.backbones.backbone import Backbone, Network
from leakbench.federation.backbones.chain import averaged
from leakbench.federation.backbones.input import Box
from leakbench.federation.backbones.plain_layers import initialise_convolutions

FACE: Box = (0.1994, 0.1904, 0.7961, 0.8865)
"""The face of aligned CelebA, (35.5, 53.9)–(141.7, 177.8), in the square crop of the data set."""

BLOCKS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))
"""Expansion, channels, number, and the first one's stride."""


class Bottleneck(nn.Module):
    """Expands, convolves by channel and projects, with a shortcut where shapes agree."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.shortcut = stride == 1 and inputs == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.PReLU(inner),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.PReLU(inner),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return the next maps."""
        following: Tensor = self.conv(maps)
        return maps + following if self.shortcut else following


@register_model("mobilefacenet")
@dataclass(frozen=True, kw_only=True)
class MobileFaceNet(Backbone):
    """MobileFaceNet with its last 512 maps averaged (d = 512), at any input size.

    The published network weights each position of its 7×6 maps (`linear7`) and projects to 128
    numbers (`linear1`); these two layers of a file are left out. PReLU has one slope a channel. A
    file has the names of tensors of github.com/Xiaoccer/MobileFaceNet_Pytorch.

    Attributes:
        crop: by default the face in the project's square crop of aligned CelebA, to which LFW is
            fitted; `none` for other images.
    """

    reference = (
        "Chen, Liu, Gao, Han 2018, MobileFaceNets: Efficient CNNs for Accurate Real-Time Face "
        "Verification on Mobile Devices (arXiv 1804.07573)"
    )
    splits = ("convolutions", "blocks.4", "blocks.11")
    normalisation = ((0.5, 0.5, 0.5), (128 / 255, 128 / 255, 128 / 255))
    default_input = (112, 96)
    smallest_input = 16
    last = "conv2"
    ignored = ("linear7", "linear1")

    crop: Box | Literal["none"] = FACE

    def network(self, classes: int, height: int, width: int) -> Network:  # noqa: ARG002
        """Return MobileFaceNet; d = 512."""
        blocks: list[nn.Module] = []
        inputs = 64
        for expansion, outputs, number, first in BLOCKS:
            for stride in (first, *[1] * (number - 1)):
                blocks.append(Bottleneck(inputs, outputs, stride, expansion))
                inputs = outputs
        network = averaged(
            conv1=_convolution(3, 64, 3, stride=2),
            dw_conv1=_convolution(64, 64, 3, groups=64),
            blocks=nn.Sequential(*blocks),
            conv2=_convolution(inputs, 512, 1),
        )
        initialise_convolutions(network)
        return Network(network, features=512)


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution with BatchNorm and PReLU."""
    layers = OrderedDict[str, nn.Module](
        conv=nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        bn=nn.BatchNorm2d(outputs),
        prelu=nn.PReLU(outputs),
    )
    return nn.Sequential(layers)
