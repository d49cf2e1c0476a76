"""ViT-S, for small images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from leakbench.base.registry import register_model
from leakbench.federation.backbones.backbone import Network
from leakbench.federation.backbones.transformer import transformer_network
from leakbench.federation.backbones.vision_transformer import VisionTransformerBackbone


@register_model("vit_small")
@dataclass(frozen=True, kw_only=True)
class ViTSmall(VisionTransformerBackbone):
    """ViT-S, of 12 blocks of 384 channels and 6 heads; deep features are the class token's.

    It is torchvision's transformer at DeiT-S's size, with smaller patches for smaller images. A
    file of weights has torchvision's names of tensors.

    Attributes:
        patch: height and width of a patch; 16 in DeiT-S, whose input has 224 px.
    """

    reference = (
        "Touvron, Cord, Douze, Massa, Sablayrolles, Jégou 2021, Training Data-Efficient Image "
        "Transformers & Distillation through Attention (ICML)"
    )
    splits = ("convolutions", "encoder.layers.encoder_layer_5", "encoder.layers")
    default_input = (64, 64)
    last = "encoder.layers.encoder_layer_11"

    patch: Annotated[int, Field(gt=0)] = 8  # type: ignore[misc]

    def network(self, classes: int, height: int, width: int) -> Network:  # noqa: ARG002
        """Return ViT-S; d = 384."""
        from torchvision.models import VisionTransformer

        return transformer_network(
            VisionTransformer(
                image_size=height,
                patch_size=self.patch,
                num_layers=12,
                num_heads=6,
                hidden_dim=384,
                mlp_dim=1536,
            )
        )
