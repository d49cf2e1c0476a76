"""ViT-B/16 of torchvision."""

from __future__ import annotations

from dataclasses import dataclass

from leakbench.base.registry import register_model
from leakbench.federation.backbones.backbone import Network
from leakbench.federation.backbones.transformer import transformer_network
from leakbench.federation.backbones.vision_transformer import VisionTransformerBackbone


@register_model("vit_b_16")
@dataclass(frozen=True, kw_only=True)
class ViTB16(VisionTransformerBackbone):
    """ViT-B/16 (torchvision); deep features are the class token's (d = 768).

    Pretrained embeddings of positions are resized where the input is not 224 px.
    """

    reference = (
        "Dosovitskiy et al. 2021, An Image is Worth 16x16 Words: Transformers for Image "
        "Recognition at Scale (ICLR)"
    )
    splits = ("convolutions",)
    default_input = (224, 224)
    last = "encoder.layers.encoder_layer_11"

    def network(self, classes: int, height: int, width: int) -> Network:  # noqa: ARG002
        """Return ViT-B/16; d = 768."""
        from torchvision.models import vit_b_16

        return transformer_network(vit_b_16(weights=None, image_size=height))
