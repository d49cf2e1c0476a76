"""Sending few bits an entry."""

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
    """Sends each entry in k bits, and one scale for each parameter's tensor.

    One bit is the sign, times the tensor's mean magnitude; a zero gets either sign at random. Two
    and more bits tell one of 2ᵏ − 1 levels, evenly spaced from −max|g| to max|g| with zero among
    them, to which entries are rounded up or down at random so that their expectation stays.

    Attributes:
        bits: k.
    """

    reference: ClassVar[str] = (
        "1 bit: Bernstein, Wang, Azizzadenesheli, Anandkumar 2018, signSGD (ICML), with the scale "
        "of Karimireddy, Rebjock, Stich, Jaggi 2019, Error Feedback Fixes SignSGD (ICML); more: "
        "Alistarh, Grubic, Li, Tomioka, Vojnovic 2017, QSGD (NeurIPS)"
    )
    example_parameters: ClassVar = {"bits": 2}

    bits: Annotated[int, Field(ge=1, le=16)]

    def protect(self, compute: Compute) -> Compute:
        """Return `compute` with what it returns rounded."""

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
        """How many levels are above zero."""
        return int(2 ** (self.bits - 1)) - 1

    def reliability(self, update: Update, individuals: int) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return, for each parameter, the share of its energy that rounding does not explain.

        Of one bit nothing, since a sign is not the gradient with noise; see `surrogate`.
        """
        if self.bits == 1:
            return {}
        return {
            name: wiener_factor(value, value.numel() * _rounding_variance(value, self._levels))
            for name, value in update.items()
        }

    def surrogate(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return a smooth sign for one bit: tanh(g / rms), times the mean magnitude."""
        return (
            {name: _smooth_sign(value) for name, value in gradients.items()}
            if self.bits == 1
            else gradients
        )


def sign_of(value: Tensor, generator: torch.Generator) -> Tensor:
    """Return the sign times the mean magnitude; of zeros a random sign."""
    positive = torch.where(value == 0, _uniform(value, generator) < 0.5, value > 0)
    magnitude = value.abs().mean()
    return torch.where(positive, magnitude, -magnitude)


def rounded(value: Tensor, levels: int, generator: torch.Generator) -> Tensor:
    """Return a tensor rounded without bias to multiples of its largest magnitude over `levels`."""
    step = value.abs().max() / levels
    # Where all is zero so is the step.
    multiples = (value / step.clamp_min(1e-30) + _uniform(value, generator)).floor()
    return multiples.clamp(-levels, levels) * step


def _uniform(value: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(value.shape, generator=generator).to(value.device)


def _rounding_variance(received: Tensor, levels: int) -> Tensor:
    """Return an estimate of the mean variance of rounding.

    An entry that lies a share s of a step beyond a level has variance s(1 − s) step²: step²/6 on
    average where entries spread over many levels, and |g|·step − g² where nearly all lie within the
    first, with |g| on average what is received and g² twice the square of that, as if Laplacian;
    tails of gradients are heavier still.
    """
    magnitude = received.abs()
    step = magnitude.max() / levels
    mean = magnitude.mean()
    return torch.minimum(step.square() / 6, (mean * (step - 2 * mean)).clamp_min(0))


def _smooth_sign(gradients: Tensor) -> Tensor:
    """Return the smooth sign of gradients of R runs, shape (R, …)."""
    axes = list(range(1, gradients.ndim))
    rms = gradients.square().mean(axes, keepdim=True).clamp_min(1e-30).sqrt()
    return torch.tanh(gradients / rms) * gradients.abs().mean(axes, keepdim=True)
