"""The engine of gradient-matching attacks: dummy data whose gradient approaches the update.

An attack hands over its objective, a function of the dummy gradients; the engine differentiates
through the shared model, takes the optimiser's steps and keeps the best iterate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bench.federation import client_update
from bench.models import SharedModel

Gradients = Mapping[str, Tensor]
"""Parameter name → gradient."""

Objective = Callable[[Gradients], Tensor]
"""The loss of dummy gradients, a scalar; differentiable."""


@dataclass(frozen=True)
class Reconstruction:
    """The best dummy data found for one update.

    Attributes:
        images: in [0, 1], shape (B, 3, size, size).
        labels: main-task classes, shape (B,).
        loss: the objective there; infinite if no iterate was finite.
        steps: gradient evaluations spent.
    """

    images: Tensor
    labels: Tensor
    loss: float
    steps: int


def match_gradients(
    model: SharedModel,
    objective: Objective,
    start: Tensor,
    labels: Tensor | None,
    steps: int,
    learning_rate: float,
    generator: torch.Generator,
    classes: int,
    progress: Callable[[float], None],
) -> Reconstruction:
    """Minimise the objective over dummy images, and over soft labels if `labels` is None.

    Adam with a cosine-decaying learning rate; images are projected to [0, 1] after each step. Soft
    labels are the softmax of logits, one for each individual, as in DLG.

    Args:
        start: first images, shape (B, 3, size, size).
        labels: classes of the dummies, shape (B,), or None to find them jointly.
        generator: draws the first label logits; a CPU generator.
        progress: called with the share of steps done.
    """
    images = start.clone().requires_grad_()
    variables = [images]
    if labels is None:
        logits = torch.randn(len(start), classes, generator=generator).to(start.device)
        variables.append(logits.requires_grad_())
    optimiser = torch.optim.Adam(variables, lr=learning_rate)
    best = Reconstruction(start, _classes(labels, variables), math.inf, 0)
    taken = 0
    for step in range(steps):
        targets = variables[1].softmax(1) if labels is None else labels
        loss = objective(client_update(model, images, targets, create_graph=True))
        value = loss.item()
        taken += 1
        if value < best.loss:
            best = Reconstruction(images.detach().clone(), _classes(labels, variables), value, 0)
        if not math.isfinite(value):
            break
        for group in optimiser.param_groups:
            group["lr"] = learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        for variable, gradient in zip(variables, torch.autograd.grad(loss, variables), strict=True):
            variable.grad = gradient
        optimiser.step()
        with torch.no_grad():
            images.clamp_(0, 1)
        progress((step + 1) / steps)
    return replace(best, steps=taken)


def _classes(labels: Tensor | None, variables: list[Tensor]) -> Tensor:
    return variables[1].detach().argmax(1) if labels is None else labels
