"""Small transformers that classify by one token, of images and of texts."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torchvision.models import VisionTransformer

from convolutional_planting import PlantedImages, planted_images
from leakbench.attacks.token_demixing import TokenDemixing
from leakbench.federation.backbones.transformer import transformer_network
from leakbench.federation.shared_model import SharedModel

WORDS, LENGTH = 60, 12
"""Of the texts: different tokens, and tokens of each."""


def vision_transformer(seed: int = 0, classes: int = 2) -> SharedModel:
    """torchvision's vision transformer, of images of 8×8."""
    torch.manual_seed(seed)
    network = VisionTransformer(
        image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=128
    )
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            with torch.no_grad():
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.3, 0.3)
    output = nn.Linear(32, classes)
    nn.init.normal_(output.weight, std=0.3)
    return SharedModel(transformer_network(network).chain, nn.Sequential(output)).eval()


class TextEncoder(nn.Module):
    """PyTorch's transformer layers as BERT has them: LayerNorm after each part.

    Args:
        norm_first: LayerNorm before each part, and once at the end.
        picked: the token by which it classifies; None for the average of all.
    """

    def __init__(self, norm_first: bool = False, picked: int | None = 0) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, 32)
        self.positions = nn.Parameter(torch.randn(LENGTH, 32))
        layer = partial(nn.TransformerEncoderLayer, 32, 4, 128, 0.0, "gelu", batch_first=True)
        self.layers = nn.Sequential(*(layer(norm_first=norm_first) for _ in range(2)))
        self.last = nn.LayerNorm(32) if norm_first else nn.Identity()
        self.picked = picked

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.last(self.layers(self.words(tokens) + self.positions))
        return hidden.mean(1) if self.picked is None else hidden[:, self.picked]


def text_classifier(
    seed: int = 0, classes: int = 2, norm_first: bool = False, picked: int | None = 0
) -> SharedModel:
    torch.manual_seed(seed)
    encoder = TextEncoder(norm_first, picked)
    return SharedModel(encoder, nn.Sequential(nn.Linear(32, classes))).eval()


SEARCH = TokenDemixing(rounds=20, runs_at_once=8, patience=5)


def planted_tokens(individuals: int, model: SharedModel, seed: int = 0) -> PlantedImages:
    """Images for a vision transformer."""
    return planted_images(individuals, model, seed, SEARCH)


def planted_texts(individuals: int, model: SharedModel, seed: int = 0) -> PlantedImages:
    """Random texts, as token ids, that begin with the same token."""
    draw = torch.Generator().manual_seed(seed)
    texts = torch.randint(1, WORDS, (individuals + 60, LENGTH), generator=draw)
    texts[:, 0] = 0
    classes = model.classifier[0].out_features
    labels = torch.randint(classes, (individuals,), generator=draw)
    return PlantedImages(model, texts[:individuals], labels, texts[individuals:], SEARCH)
