"""Differentially private SGD (DP-SGD)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from math import isfinite, sqrt
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call, grad, vmap

from leakbench.base.errors import UsageError
from leakbench.base.registry import register_defense
from leakbench.federation.batch_norm import batch_norm_layers
from leakbench.federation.client import Client, Compute, Update
from leakbench.federation.defense import Defense, Stage
from leakbench.federation.defenses.clipping import each_clipped
from leakbench.federation.defenses.noise import noise_energy, wiener_factor
from leakbench.federation.shared_model import SharedModel


@register_defense("dp_sgd")
@dataclass(frozen=True, kw_only=True)
class DPSGD(Defense):
    """Clips each individual's gradient, sums them, adds Gaussian noise, divides by B.

    ε is computed by Opacus' RDP accountant (extra `opacus`), for each client's individuals against
    an adversary that sees all of the client's updates. It assumes Poisson sampling of batches, as
    is usual; clients here sample batches of a fixed size.

    Attributes:
        clip: C, the maximum ℓ2 norm of an individual's gradient, all parameters as one vector.
        noise: standard deviation of the noise on the sum of gradients, in units of C.
    """

    reference: ClassVar[str] = (
        "Abadi, Chu, Goodfellow, McMahan, Mironov, Talwar, Zhang 2016, Deep Learning with "
        "Differential Privacy (CCS), algorithm 1"
    )
    stage: ClassVar[Stage] = Stage.GRADIENT
    example_parameters: ClassVar = {"clip": 0.5, "noise": 0.1}

    clip: Annotated[float, Field(gt=0)]
    noise: Annotated[float, Field(ge=0)]

    def protect(self, compute: Compute) -> Compute:  # noqa: ARG002
        """Return the private computation, which replaces `compute`."""

        def protected(client: Client) -> Update:
            layers = batch_norm_layers(client.model)
            if layers:
                raise UsageError(
                    f"defense 'dp_sgd' needs a model without BatchNorm, which mixes the "
                    f"individuals of a batch, but it has {next(iter(layers))!r}; choose another "
                    f"model or model.batch_norm=false"
                )
            loss = client.model.loss
            if loss.class_weights or loss.reduction == "sum":
                raise UsageError(
                    "defense 'dp_sgd' divides the sum of clipped gradients by the batch size, as "
                    "for a mean loss without class weights; choose another defense"
                )
            individuals = len(client.labels)
            summed = clipped_sum(client.model, client.images, client.labels, self.clip)
            if self.noise:
                summed = {
                    name: value + self.noise * self.clip * _normal(value, client.generator)
                    for name, value in summed.items()
                }
            return {name: value / individuals for name, value in summed.items()}

        return protected

    def surrogate_of_individuals(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return each individual's gradient, clipped."""
        return each_clipped(gradients, self.clip)

    def reliability(self, update: Update, individuals: int) -> Mapping[str, Tensor]:
        """Return, for each parameter, the share of its energy that noise does not explain."""
        sigma = self.noise * self.clip / individuals
        return {
            name: wiener_factor(value, noise_energy(value, sigma)) for name, value in update.items()
        }

    def epsilon(self, sampled: float, rounds: int, delta: float, uses: int = 1) -> float | None:
        """Return ε; None without noise, or if Opacus is not installed."""
        if not self.noise or find_spec("opacus") is None:
            return None
        from opacus.accountants import RDPAccountant

        accountant = RDPAccountant()
        # n Gaussian mechanisms on the same batch equal one with 1/√n of the noise.
        accountant.history = [(self.noise / sqrt(uses), sampled, rounds)]
        with warnings.catch_warnings():
            # It warns that more Rényi orders might give a smaller ε; the bound is valid anyway.
            warnings.simplefilter("ignore", UserWarning)
            epsilon = float(accountant.get_epsilon(delta))
        return epsilon if isfinite(epsilon) else None


def clipped_sum(model: SharedModel, images: Tensor, labels: Tensor, norm: float) -> Update:
    """Return the sum over individuals of their gradients, each clipped to an ℓ2 norm.

    Args:
        model: without layers that mix the individuals of a batch.
        images: shape (B, 3, size, size).
        labels: shape (B,).
    """
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        logits = functional_call(model, parameters, (image[None],))
        return model.loss.value(logits, label[None])

    each = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, labels)
    return {name: value.sum(0) for name, value in each_clipped(each, norm).items()}


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator).to(like.device)
