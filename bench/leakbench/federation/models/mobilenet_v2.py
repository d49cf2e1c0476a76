"""MobileNetV2 of torchvision."""

from __future__ import annotations

from dataclasses import dataclass

from leakbench.base.registry import register_model
from leakbench.federation.backbones.backbone import Backbone, Network
from leakbench.federation.backbones.chain import averaged
from leakbench.federation.backbones.plain_layers import initialise_convolutions, plain


@register_model("mobilenet_v2")
@dataclass(frozen=True, kw_only=True)
class MobileNetV2(Backbone):
    """MobileNetV2 (torchvision) with its last 1,280 maps averaged (d = 1,280)."""

    reference = (
        "Sandler, Howard, Zhu, Zhmoginov, Chen 2018, MobileNetV2: Inverted Residuals and Linear "
        "Bottlenecks (CVPR)"
    )
    splits = ("convolutions", "features.6", "features.13")
    last = "features.18"
    ignored = ("classifier",)

    def network(self, classes: int, height: int, width: int) -> Network:  # noqa: ARG002
        """Return MobileNetV2; d = 1,280."""
        from torchvision.models import mobilenet_v2

        features = plain(mobilenet_v2(weights=None)).features
        initialise_convolutions(features)
        return Network(averaged(features=features), features=1280)
