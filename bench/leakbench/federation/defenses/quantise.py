"""Quantisation of the update to few bits per entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from leakbench.base.registry import register_defense
from leakbench.federation.client import Client, Compute, Update
from leakbench.federation.defense import Defense
from leakbench.federation.defenses.noise import wiener_factor


@register_defense("quantise")
@dataclass(frozen=True, kw_only=True)
class Quantisation(Defense):
    """Sends k bits per entry, and one scale per parameter tensor.

    With one bit an entry is its sign times the tensor's mean magnitude; zeros get a random sign.
    With more bits entries are rounded to 2ᵏ − 1 levels, evenly spaced from −max|g| to max|g|
    including zero, up or down at random so that their expectation is unchanged.

    Attributes:
        bits: k, the number of bits per entry.
    """

    reference: ClassVar[str] = (
        "1 bit: Bernstein, Wang, Azizzadenesheli, Anandkumar 2018, signSGD (ICML), with the scale "
        "of Karimireddy, Rebjock, Stich, Jaggi 2019, Error Feedback Fixes SignSGD (ICML); more: "
        "Alistarh, Grubic, Li, Tomioka, Vojnovic 2017, QSGD (NeurIPS)"
    )
    example_parameters: ClassVar = {"bits": 2}

    bits: Annotated[int, Field(ge=1, le=16)]

    def protect(self, compute: Compute) -> Compute:
        """Return `compute` with its result quantised."""

        def protected(client: Client) -> Update:
            return {
                name: sign_of(value, client.generator)
                if self.bits == 1
                else rounded(value, self._levels, client.generator)
                for name, value in compute(client).items()
            }

        return protected

    @property
    def _levels(self) -> int:
        """Number of levels above zero."""
        return int(2 ** (self.bits - 1)) - 1

    def reliability(self, update: Update, individuals: int) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return, for each parameter, the share of its energy that rounding does not explain.

        Empty for one bit, since a sign is not the gradient plus noise; see `surrogate`.
        """
        if self.bits == 1:
            return {}
        return {
            name: wiener_factor(value, value.numel() * _rounding_variance(value, self._levels))
            for name, value in update.items()
        }

    def surrogate(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a differentiable sign for one bit: tanh(g / rms) times the mean magnitude."""
        return (
            {name: _smooth_sign(value) for name, value in gradients.items()}
            if self.bits == 1
            else gradients
        )


def sign_of(value: Tensor, generator: torch.Generator) -> Tensor:
    """Return the sign times the mean magnitude, with a random sign for zeros."""
    positive = torch.where(value == 0, _uniform(value, generator) < 0.5, value > 0)
    magnitude = value.abs().mean()
    return torch.where(positive, magnitude, -magnitude)


def rounded(value: Tensor, levels: int, generator: torch.Generator) -> Tensor:
    """Return a tensor rounded without bias to multiples of its largest magnitude / `levels`."""
    step = value.abs().max() / levels
    # The step is zero if all entries are.
    multiples = (value / step.clamp_min(1e-30) + _uniform(value, generator)).floor()
    return multiples.clamp(-levels, levels) * step


def _uniform(value: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(value.shape, generator=generator).to(value.device)


def _rounding_variance(received: Tensor, levels: int) -> Tensor:
    """Return an estimate of the mean variance of rounding.

    An entry at a fraction s of a step above a level has variance s(1 − s) step². On average this is
    step²/6 if entries spread over many levels, and |g|·step − g² if nearly all are within the first
    level. The mean of |g| is estimated by that of the received magnitudes, and the mean of g² by
    twice its square, as for a Laplacian; gradients have even heavier tails.
    """
    magnitude = received.abs()
    step = magnitude.max() / levels
    mean = magnitude.mean()
    return torch.minimum(step.square() / 6, (mean * (step - 2 * mean)).clamp_min(0))


def _smooth_sign(gradients: Tensor) -> Tensor:
    """Return a differentiable sign of the gradients of R runs, shape (R, …)."""
    axes = list(range(1, gradients.ndim))
    rms = gradients.square().mean(axes, keepdim=True).clamp_min(1e-30).sqrt()
    return torch.tanh(gradients / rms) * gradients.abs().mean(axes, keepdim=True)
