"""Sending the update in a floating-point format of sixteen bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from leakbench.base.registry import register_defense
from leakbench.federation.client import Client, Compute, Update
from leakbench.federation.defense import Defense


@register_defense("low_precision")
@dataclass(frozen=True, kw_only=True)
class LowPrecision(Defense):
    """Rounds each entry to the nearest number of a shorter floating-point format.

    Clients do so to send half as much, and not as a defense: it says what precision an attack
    needs. The server sees the rounded numbers in the format of the original.

    Attributes:
        format: `float16` has 11 bits of precision and nothing below 6e-8, `bfloat16` has 8 bits and
            float32's range.
    """

    reference: ClassVar[str] = (
        "float16: Micikevicius et al. 2018, Mixed Precision Training (ICLR); bfloat16: Kalamkar "
        "et al. 2019, A Study of BFLOAT16 for Deep Learning Training (arXiv 1905.12322)"
    )
    example_parameters: ClassVar = {"format": "bfloat16"}

    format: Literal["float16", "bfloat16"]

    def protect(self, compute: Compute) -> Compute:
        """Return `compute` with its result rounded."""
        short = FORMATS[self.format]
        largest = torch.finfo(short).max

        def protected(client: Client) -> Update:
            return {
                name: value.clamp(-largest, largest).to(short).to(value)
                for name, value in compute(client).items()
            }

        return protected


FORMATS = {"float16": torch.float16, "bfloat16": torch.bfloat16}
"""Format → PyTorch's type."""
