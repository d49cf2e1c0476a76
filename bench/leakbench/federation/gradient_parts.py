"""Parts of a batch that pass a network one after the other, so that a gradient fits into memory."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.func import functional_call

from leakbench.federation.batch_norm import normalises_by_batch
from leakbench.federation.shared_model import SharedModel

HELD = 2**30
"""Bytes of activations that a gradient holds at once. A MobileFaceNet (112 × 96 px) keeps 30 MiB of
each individual, a ViT-B/16 (224 px) 134 MiB, the small networks less than one."""

FEWEST = 8
"""Individuals up to which a batch is never parted."""


def number_of_parts(model: SharedModel, images: Tensor) -> int:
    """Return in how many parts a batch passes the network for its gradient.

    One where its activations fit into `HELD`, since a sum of parts is rounded otherwise; and where
    the model mixes individuals, draws random numbers or is in training mode, since then the
    gradient is no such sum.

    Args:
        model: as the client runs it.
        images: shape (B, 3, size, size), or other inputs, one a row.
    """
    if len(images) <= FEWEST or model.training or normalises_by_batch(model):
        return 1
    fit = max(FEWEST, HELD // max(1, _bytes_held(model, images[:2]) // 2))
    if fit >= len(images) or not _treats_each_alone(model, images[:FEWEST]):
        return 1
    return math.ceil(len(images) / fit)


def _bytes_held(model: SharedModel, images: Tensor) -> int:
    """Return the bytes that a forward pass keeps for the gradient, without the parameters."""
    of_model = [*model.parameters(), *model.buffers()]
    known = {tensor.untyped_storage().data_ptr() for tensor in of_model}
    held: list[Tensor] = []  # Held here too, so that no address is used a second time.

    def keep(tensor: Tensor) -> Tensor:
        # Detached: an output that its own node keeps makes a cycle which is never collected.
        held.append(tensor.detach())
        return held[-1]

    parameters = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    with torch.enable_grad(), saved_tensors_hooks(keep, lambda tensor: tensor):
        functional_call(model, parameters, (images,))
    storages = [tensor.untyped_storage() for tensor in held]
    sizes = {storage.data_ptr(): storage.nbytes() for storage in storages}
    return sum(size for pointer, size in sizes.items() if pointer not in known)


def _treats_each_alone(model: SharedModel, images: Tensor) -> bool:
    """Return whether logits depend neither on who else is in the batch nor on chance."""
    with torch.no_grad():
        together = model(images)
        # Not in halves, nor one by one: a model may compare pairs, or not take a single input.
        apart = torch.cat([model(some) for some in torch.split(images, 3)])
    if apart.shape != together.shape:
        return False
    rounding = ROUNDING * together.abs().amax()
    return bool(((together - apart).abs() <= rounding).all())


ROUNDING = 1e-3
"""Relative distance of logits that are the same but for rounding, that of TF32 included."""
