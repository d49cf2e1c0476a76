"""Sharing a part of the update."""

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
    """Sends a fraction of the update's entries; the others are zero.

    Attributes:
        fraction: of the entries that are sent, rounded up to a whole number of them.
        choice: the `largest` in magnitude, or `random` ones, drawn anew for each update.
        scope: whether the fraction is that of each parameter's `tensor`, or of all entries together
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
        """Return `compute` with the entries that are not chosen set to zero."""

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
        """Return ones where entries are chosen, zeros elsewhere, of the same shape."""
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
        """Return ones for what was sent, and for the rest how far their zeros are to be believed.

        What is not among the largest is small, so that a zero is not far off; at random it is.
        """
        if self.fraction == 1:
            return {}
        small = SMALL if self.choice == "largest" else 0.0
        return {
            name: (value != 0).to(value.dtype).clamp_min(small) for name, value in update.items()
        }


SMALL = 0.3
"""Trust in the zero of an entry that is not among the largest."""


def count_of(fraction: float, total: int) -> int:
    """Return a fraction of a number, rounded up; of the fraction as it is written.

    >>> count_of(0.07, 100), count_of(0.01, 30)
    (7, 1)
    """
    return ceil(Fraction(str(fraction)) * total)
