"""One client: its batch, and the gradient that it computes as its update."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import functional_call

from leakbench.federation.gradient_parts import number_of_parts
from leakbench.federation.shared_model import SharedModel


@dataclass(frozen=True)
class Client:
    """The inputs of a client's update: model, batch, learning rate, random generator.

    Attributes:
        model: the shared model as the client runs it, see `batch_norm.in_mode`.
        images: in [0, 1], shape (B, 3, size, size).
        labels: main-task classes, shape (B,).
        learning_rate: η, public, for clients that take several local steps.
        generator: of the client's random numbers; on the CPU.
    """

    model: SharedModel
    images: Tensor
    labels: Tensor
    learning_rate: float
    generator: torch.Generator


Update = dict[str, Tensor]
"""Parameter name → the sent gradient, or change of weights divided by −η."""

Compute = Callable[[Client], Update]
"""A function that computes a client's update."""


def gradient(client: Client) -> Update:
    """Return the undefended update: the gradient of the model's loss over the batch."""
    return client_update(client.model, client.images, client.labels)


def client_update(model: SharedModel, images: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return the gradient of the model's loss over a batch, by parameter name.

    Where a batch's activations would need much memory, it is the sum of its parts' gradients, equal
    up to rounding; see `number_of_parts`.

    Args:
        model: as the client runs it, see `in_mode`.
        images: shape (B, 3, size, size).
        targets: classes, shape (B,), or class probabilities, shape (B, K).
    """
    parts = number_of_parts(model, images)
    if parts == 1:
        return _gradient(model, images, targets)
    whole = model.loss.denominator(targets)
    update: dict[str, Tensor] = {}
    # Of sizes that differ by one at most: a model may not take a single individual.
    split = torch.tensor_split(images, parts), torch.tensor_split(targets, parts)
    for some, of_them in zip(*split, strict=True):
        share = model.loss.denominator(of_them) / whole
        for name, part in _gradient(model, some, of_them, share).items():
            update[name] = update[name] + part if name in update else part
    return update


def _gradient(
    model: SharedModel, images: Tensor, targets: Tensor, share: float = 1.0
) -> dict[str, Tensor]:
    """Return the gradient of a share of the loss, by parameter name."""
    parameters = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
    loss = share * model.loss.value(functional_call(model, parameters, (images,)), targets)
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    return dict(zip(parameters, gradients, strict=True))
