"""Vision transformers of torchvision as chains of layers that attacks can differentiate twice."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from leakbench.federation.backbones.backbone import Network
from leakbench.federation.backbones.plain_layers import plain

BLOCKS = "encoder.layers"
"""Where torchvision has the blocks, and its names of tensors with it."""

RENAMED = {
    "class_token": "class_token.token",
    "encoder.pos_embedding": "positions.embedding",
}
"""torchvision's names of parameters that belong to no layer → names in the chain."""


class Tokens(nn.Module):
    """Makes a sequence of a map's positions, row by row."""

    def forward(self, maps: Tensor) -> Tensor:
        """Return tokens, shape (n, height · width, channels)."""
        return maps.flatten(2).transpose(1, 2)


class ClassToken(nn.Module):
    """Puts a trained token before a sequence.

    Args:
        token: shape (1, 1, channels).
    """

    def __init__(self, token: nn.Parameter) -> None:
        super().__init__()
        self.token = token

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the longer sequence, shape (n, length + 1, channels)."""
        return torch.cat([self.token.expand(len(tokens), -1, -1), tokens], dim=1)


class Positions(nn.Module):
    """Adds a trained embedding of its position to each token.

    Args:
        embedding: shape (1, length, channels).
    """

    def __init__(self, embedding: nn.Parameter) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, tokens: Tensor) -> Tensor:
        """Return tokens, same shape."""
        return tokens + self.embedding


class FirstToken(nn.Module):
    """Picks the class token."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Return its features, shape (n, channels)."""
        return tokens[:, 0]


class SelfAttention(nn.Module):
    """Self-attention of several heads, of linear layers and a softmax.

    PyTorch's fused kernels have no second derivative, which gradient matching needs.

    Args:
        attention: whose weights it takes.
    """

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        channels = attention.embed_dim
        self.heads = attention.num_heads
        self.in_proj = nn.Linear(channels, 3 * channels, device="meta")
        assert attention.in_proj_weight is not None
        assert attention.in_proj_bias is not None
        self.in_proj.weight = attention.in_proj_weight
        self.in_proj.bias = attention.in_proj_bias
        self.out_proj = nn.Linear(channels, channels, device="meta")
        self.out_proj.weight, self.out_proj.bias = (
            attention.out_proj.weight,
            attention.out_proj.bias,
        )

    def forward(self, tokens: Tensor, *_same: Tensor, **_options: Any) -> tuple[Tensor, None]:
        """Return what `nn.MultiheadAttention` returns without its weights.

        Args:
            tokens: shape (n, length, channels): query, and key and value too.
        """
        queries, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in self.in_proj(tokens).chunk(3, dim=-1)
        )
        scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
        mixed = scores.softmax(-1) @ values
        return self.out_proj(mixed.transpose(1, 2).flatten(2)), None


def transformer_network(network: Any) -> Network:
    """Return a `VisionTransformer` of torchvision as a chain; deep features are the class token's.

    Its blocks are torchvision's, with `SelfAttention`.
    """
    plain(network)
    for block in network.encoder.layers:
        block.self_attention = SelfAttention(block.self_attention)
    encoder = OrderedDict[str, nn.Module](layers=network.encoder.layers, ln=network.encoder.ln)
    chain = OrderedDict[str, nn.Module](
        conv_proj=network.conv_proj,
        tokens=Tokens(),
        class_token=ClassToken(network.class_token),
        positions=Positions(network.encoder.pos_embedding),
        encoder=nn.Sequential(encoder),
        first=FirstToken(),
    )
    return Network(nn.Sequential(chain), network.hidden_dim)


def named_as_chain(tensors: Mapping[str, Tensor], input_size: int, patch: int) -> dict[str, Tensor]:
    """Return torchvision's tensors of a transformer under the names of the chain's.

    The embedding of positions is resized to the input's, bicubically, as torchvision does.

    Args:
        input_size: height and width of the network's input.
        patch: height and width of a patch.
    """
    from torchvision.models.vision_transformer import interpolate_embeddings

    named = dict(tensors)
    if "encoder.pos_embedding" in named:
        named = dict(interpolate_embeddings(input_size, patch, OrderedDict(named)))
    return {_renamed(name): value for name, value in named.items()}


def _renamed(name: str) -> str:
    return RENAMED.get(name, name.replace("self_attention.in_proj_", "self_attention.in_proj."))
