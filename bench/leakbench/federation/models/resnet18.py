"""ResNet-18, with a stem for small images."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from leakbench.base.registry import register_model
from leakbench.federation.shared_model import Architecture, Normalise, SharedModel


@register_model("resnet18")
@dataclass(frozen=True, kw_only=True)
class ResNet18(Architecture):
    """ResNet-18 with BatchNorm (torchvision), split before its linear layer (d = 512).

    Below 128 px it has the usual stem for small images: a 3×3 convolution without pooling.
    """

    reference = "He, Zhang, Ren, Sun 2016, Deep Residual Learning for Image Recognition (CVPR)"

    def build(self, classes: int, size: int, split: str) -> SharedModel:  # noqa: ARG002
        """Return ResNet-18; d = 512."""
        from torchvision.models import resnet18

        network = resnet18(weights=None, num_classes=classes)
        if size < 128:
            network.conv1 = nn.Conv2d(3, 64, 3, padding=1, bias=False)
            network.maxpool = nn.Identity()
        for module in network.modules():
            if isinstance(module, nn.ReLU):
                # Attacks differentiate twice, which in-place activations do not allow.
                module.inplace = False
        output = network.fc
        network.fc = nn.Identity()
        return SharedModel(nn.Sequential(Normalise(), network), nn.Sequential(output))
