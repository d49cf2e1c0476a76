"""Additive noise on the update: Gaussian and Laplacian."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from leakbench.base.registry import register_defense
from leakbench.federation.client import Client, Compute, Update
from leakbench.federation.defense import Defense


@dataclass(frozen=True, kw_only=True)
class Noise(Defense):
    """Adds independent noise to every entry of the update.

    Attributes:
        sigma: standard deviation, in units of the gradient; its ratio to the gradient's norm
            depends on model and batch, and is in the record.
    """

    example_parameters: ClassVar = {"sigma": 0.01}

    sigma: Annotated[float, Field(ge=0)]

    @abstractmethod
    def sample(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Return noise of variance 1, on the CPU."""

    def protect(self, compute: Compute) -> Compute:
        """Return `compute` with noise added to its result."""

        def protected(client: Client) -> Update:
            return {
                name: value
                + self.sigma * self.sample(value.shape, client.generator).to(value.device)
                for name, value in compute(client).items()
            }

        return protected if self.sigma else compute

    def reliability(self, update: Update, individuals: int) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return, for each parameter, the share of its energy that noise does not explain."""
        return {
            name: wiener_factor(value, noise_energy(value, self.sigma))
            for name, value in update.items()
        }


def noise_energy(received: Tensor, sigma: float) -> Tensor:
    """Return the expected energy of the noise in a tensor; zeros were withheld with their noise."""
    return sigma**2 * received.count_nonzero()


def wiener_factor(received: Tensor, noise: Tensor) -> Tensor:
    """Return the Wiener filter's factor for a noisy tensor, one entry with as many axes.

    The signal's energy is estimated as the received energy minus the noise's.

    Args:
        received: any shape.
        noise: its expected energy, the sum over all entries.

    >>> wiener_factor(torch.tensor([3.0, -1.0, 0.0]), torch.tensor(2.0))
    tensor([0.8000])
    """
    factor = 1 - noise / received.square().sum().clamp_min(1e-30)
    return factor.clamp_min(0).reshape([1] * received.ndim)


@register_defense("gaussian")
@dataclass(frozen=True, kw_only=True)
class GaussianNoise(Noise):
    """Adds N(0, σ²) to every entry of the update."""

    reference: ClassVar[str] = (
        "Zhu, Liu, Han 2019, Deep Leakage from Gradients (NeurIPS), section 5.1"
    )

    def sample(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Return standard normal noise."""
        return torch.randn(shape, generator=generator)


@register_defense("laplace")
@dataclass(frozen=True, kw_only=True)
class LaplaceNoise(Noise):
    """Adds Laplacian noise of standard deviation σ, that is scale σ/√2, to every entry."""

    reference: ClassVar[str] = (
        "Zhu, Liu, Han 2019, Deep Leakage from Gradients (NeurIPS), section 5.1"
    )

    def sample(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Return Laplacian noise of variance 1, by the inverse of its distribution."""
        uniform = torch.rand(shape, generator=generator, dtype=torch.float64) - 0.5
        magnitude = -torch.log1p(-2 * uniform.abs()) / 2**0.5
        return (uniform.sign() * magnitude).float()
