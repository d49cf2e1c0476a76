"""MobileNetV2 of torchvision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from leakbench.base.registry import register_model
from leakbench.federation.backbones.backbone import Backbone, Network
from leakbench.federation.backbones.chain import averaged
from leakbench.federation.backbones.plain_layers import initialise_convolutions, plain


@register_model("mobilenet_v2")
@dataclass(frozen=True, kw_only=True)
class MobileNetV2(Backbone):
    """MobileNetV2 (torchvision) with its last 1,280 maps averaged (d = 1,280).

    Attributes:
        width: factor of all channels, but for the last ones, which are 1,280 at least; pretrained
            weights are of width 1.
    """

    reference = (
        "Sandler, Howard, Zhu, Zhmoginov, Chen 2018, MobileNetV2: Inverted Residuals and Linear "
        "Bottlenecks (CVPR)"
    )
    splits = ("convolutions", "features.6", "features.13")
    last = "features.18"
    ignored = ("classifier",)

    width: Annotated[float, Field(gt=0, le=8)] = 1.0

    def network(self, classes: int, height: int, width: int) -> Network:  # noqa: ARG002
        """Return MobileNetV2; d = 1,280 · max(width, 1)."""
        from torchvision.models import mobilenet_v2

        network = plain(mobilenet_v2(weights=None, width_mult=self.width))
        initialise_convolutions(network.features)
        return Network(averaged(features=network.features), features=network.last_channel)
