"""Clipping of the whole update to a maximum norm."""

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


@register_defense("clip")
@dataclass(frozen=True, kw_only=True)
class Clipping(Defense):
    """Scales the update down to a maximum norm; usually followed by noise.

    Attributes:
        norm: the largest ℓ2 norm of all parameters as one vector.
    """

    reference: ClassVar[str] = (
        "McMahan, Ramage, Talwar, Zhang 2018, Learning Differentially Private Recurrent Language "
        "Models (ICLR), algorithm 1"
    )
    example_parameters: ClassVar = {"norm": 0.5}

    norm: Annotated[float, Field(gt=0)]

    def protect(self, compute: Compute) -> Compute:
        """Return `compute` with its result clipped to the norm."""

        def protected(client: Client) -> Update:
            update = compute(client)
            length = torch.cat([value.flatten() for value in update.values()]).norm()
            scale = clipping_factor(length, self.norm)
            return {name: scale * value for name, value in update.items()}

        return protected

    def surrogate(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return each run's gradients clipped to the norm."""
        return each_clipped(gradients, self.norm)


def each_clipped(gradients: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
    """Return gradients, shape (R, *parameter's), each of the R clipped to an ℓ2 norm."""
    squares = [value.flatten(1).square().sum(1) for value in gradients.values()]
    # The square root is not differentiable at 0.
    length = torch.stack(squares).sum(0).clamp_min(1e-30).sqrt()
    scale = clipping_factor(length, norm)
    return {
        name: scale.reshape([-1] + [1] * (value.ndim - 1)) * value
        for name, value in gradients.items()
    }


def clipping_factor(length: Tensor, norm: float) -> Tensor:
    """Return the factors that clip vectors of norm `length` to at most `norm`.

    >>> clipping_factor(torch.tensor([0.0, 0.5, 4.0]), 1.0)
    tensor([1.0000, 1.0000, 0.2500])
    """
    return (norm / length.clamp_min(1e-30)).clamp_max(1)
