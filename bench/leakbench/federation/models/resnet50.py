"""ResNet-50 of torchvision."""

from __future__ import annotations

from dataclasses import dataclass

from leakbench.base.registry import register_model
from leakbench.federation.backbones.backbone import Backbone, Network
from leakbench.federation.backbones.residual import residual_network


@register_model("resnet50")
@dataclass(frozen=True, kw_only=True)
class ResNet50(Backbone):
    """ResNet-50 with BatchNorm (torchvision), its last maps averaged (d = 2,048)."""

    reference = "He, Zhang, Ren, Sun 2016, Deep Residual Learning for Image Recognition (CVPR)"
    splits = ("convolutions", "layer2", "layer3")
    last = "layer4"
    ignored = ("fc",)

    def network(self, classes: int, height: int, width: int) -> Network:  # noqa: ARG002
        """Return ResNet-50; d = 2,048."""
        from torchvision.models import resnet50

        return residual_network(resnet50(weights=None, num_classes=classes))
