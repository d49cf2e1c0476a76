"""MobileNetV3-Small of torchvision."""

from __future__ import annotations

from dataclasses import dataclass

from leakbench.base.registry import register_model
from leakbench.federation.backbones.backbone import Backbone, Network
from leakbench.federation.backbones.chain import averaged
from leakbench.federation.backbones.plain_layers import initialise_convolutions, plain


@register_model("mobilenet_v3_small")
@dataclass(frozen=True, kw_only=True)
class MobileNetV3Small(Backbone):
    """MobileNetV3-Small (torchvision) with its last 576 maps averaged (d = 576).

    The hidden layer of torchvision's classifier is replaced by this model's head.
    """

    reference = "Howard et al. 2019, Searching for MobileNetV3 (ICCV)"
    splits = ("convolutions", "features.3", "features.8")
    last = "features.12"
    ignored = ("classifier",)

    def network(self, classes: int, height: int, width: int) -> Network:  # noqa: ARG002
        """Return MobileNetV3-Small; d = 576."""
        from torchvision.models import mobilenet_v3_small

        features = plain(mobilenet_v3_small(weights=None)).features
        initialise_convolutions(features)
        return Network(averaged(features=features), features=576)
