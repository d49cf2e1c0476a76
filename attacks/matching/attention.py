"""Multi-head self-attention by products of matrices, which shows what its linear maps see.

`nn.MultiheadAttention` calls no layers, and the kernels that PyTorch chooses for it have no second
derivative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

Meet = Callable[[str, Tensor, Tensor], None]
"""Callback with a layer's name, its input and its output."""


class UnknownAttentionError(NotImplementedError):
    """Attention in a form that is not computed here."""


@contextmanager
def attending(model: nn.Module, meet: Meet) -> Iterator[None]:
    """Compute the model's self-attention here, and report what its two linear maps see.

    Args:
        meet: called for the projection to queries, keys and values under the attention's name, and
            for its `out_proj`; individuals are the first axis.

    Raises:
        UnknownAttentionError: in a forward pass: masks, dropout, or keys that are not the queries.
    """
    layers = {n: m for n, m in model.named_modules() if type(m) is nn.MultiheadAttention}
    for name, layer in layers.items():
        layer.forward = partial(_attend, layer, name, meet)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for layer in layers.values():
            del layer.forward


def _attend(
    layer: nn.MultiheadAttention,
    name: str,
    meet: Meet,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    key_padding_mask: Tensor | None = None,
    need_weights: bool = True,
    attn_mask: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    masked = key_padding_mask is not None or attn_mask is not None or options.get("is_causal")
    if masked or query is not key or key is not value or query.ndim != 3 or not _is_plain(layer):
        raise UnknownAttentionError(name)
    tokens = query if layer.batch_first else query.transpose(0, 1)
    projected = functional.linear(tokens, layer.in_proj_weight, layer.in_proj_bias)
    meet(name, tokens, projected)
    heads = projected.view(*projected.shape[:2], 3, layer.num_heads, layer.head_dim)
    queries, keys, values = heads.permute(2, 0, 3, 1, 4)
    weights = (queries * layer.head_dim**-0.5 @ keys.mT).softmax(-1)
    context = (weights @ values).transpose(1, 2).flatten(2)
    output = functional.linear(context, layer.out_proj.weight, layer.out_proj.bias)
    meet(f"{name}.out_proj", context, output)
    averaged = options.get("average_attn_weights", True)
    told = (weights.mean(1) if averaged else weights) if need_weights else None
    return output if layer.batch_first else output.transpose(0, 1), told


def _is_plain(layer: nn.MultiheadAttention) -> bool:
    whole = layer._qkv_same_embed_dim and layer.bias_k is None and not layer.add_zero_attn
    return whole and not (layer.training and layer.dropout)
