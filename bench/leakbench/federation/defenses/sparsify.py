"""Sparsification: sending only a fraction of the update's entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from leakbench.base.registry import register_defense
from leakbench.federation.client import Client, Compute, Update
from leakbench.federation.defense import Defense


@register_defense("sparsify")
@dataclass(frozen=True, kw_only=True)
class Sparsification(Defense):
    """Sends a fraction of the update's entries and sets the others to zero.

    Attributes:
        fraction: of the entries that are sent, rounded up to a whole number.
        choice: the entries `largest` in magnitude, or `random` ones, new for each update.
        scope: whether the fraction applies to each parameter `tensor`, or to all entries together
            (`global`).
    """

    reference: ClassVar[str] = (
        "Shokri, Shmatikov 2015, Privacy-Preserving Deep Learning (CCS), section 5; by tensor: "
        "Lin, Han, Mao, Wang, Dally 2018, Deep Gradient Compression (ICLR)"
    )
    example_parameters: ClassVar = {"fraction": 0.1, "choice": "random"}

    fraction: Annotated[float, Field(gt=0, le=1)]
    choice: Literal["largest", "random"] = "largest"
    scope: Literal["tensor", "global"] = "tensor"

    def protect(self, compute: Compute) -> Compute:
        """Return `compute` with all but the chosen entries set to zero."""

        def protected(client: Client) -> Update:
            update = compute(client)
            if self.scope == "tensor":
                return {n: value * self._mask(value, client) for n, value in update.items()}
            flat = torch.cat([value.flatten() for value in update.values()])
            masks = torch.split(
                self._mask(flat, client), [value.numel() for value in update.values()]
            )
            return {
                name: value * mask.reshape(value.shape)
                for (name, value), mask in zip(update.items(), masks, strict=True)
            }

        return protected if self.fraction < 1 else compute

    def _mask(self, value: Tensor, client: Client) -> Tensor:
        """Return ones for chosen entries and zeros elsewhere, in the same shape."""
        count = count_of(self.fraction, value.numel())
        if self.choice == "largest":
            chosen = value.abs().flatten().topk(count, sorted=False).indices
        else:
            order = torch.randperm(value.numel(), generator=client.generator)
            chosen = order[:count].to(value.device)
        mask = torch.zeros_like(value).flatten()
        mask[chosen] = 1
        return mask.reshape(value.shape)

    def reliability(self, update: Update, individuals: int) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return 1 for sent entries, and for withheld ones the reliability of their zeros.

        Entries that are not among the largest are small, so that zero is close to their value;
        nothing is known about entries withheld at random.
        """
        if self.fraction == 1:
            return {}
        small = ZERO_RELIABILITY if self.choice == "largest" else 0.0
        return {
            name: (value != 0).to(value.dtype).clamp_min(small) for name, value in update.items()
        }


ZERO_RELIABILITY = 0.3
"""Reliability of the zero in place of an entry that is not among the largest."""


def count_of(fraction: float, total: int) -> int:
    """Return fraction · total, rounded up; the fraction is taken as its decimal notation.

    >>> count_of(0.07, 100), count_of(0.01, 30)
    (7, 1)
    """
    return ceil(Fraction(str(fraction)) * total)
