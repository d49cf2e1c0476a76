"""Features relative to those of D_aux, so that what all individuals share counts for nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from torch import Tensor

LEAST_DEVIATION = 0.1
"""Smallest deviation by which a feature is divided, as a share of the typical one.

Of a small network's features one in five hardly ever varies: units that are dead for almost
everybody. Divided by their own deviation, a trace of noise in them would decide the agreement.
"""


@dataclass(frozen=True)
class Standardisation:
    """Mean and deviation of D_aux's deep features.

    Raw features of two different people have a cosine of 0.9 and more where a network's features
    have a large common part; standardised ones of about 0.

    Attributes:
        mean: shape (d,), float64 on the CPU.
        deviation: standard deviation, positive; shape (d,), likewise.
    """

    mean: Tensor
    deviation: Tensor

    @classmethod
    def of(cls, features: Tensor) -> Self:
        """Return the standardisation by D_aux's features, shape (n, d)."""
        known = features.detach().cpu().double()
        deviation = known.std(0, correction=0)
        typical = deviation.square().mean().sqrt()
        least = LEAST_DEVIATION * typical if typical > 0 else typical + 1
        return cls(known.mean(0), deviation.clamp_min(least))

    def __call__(self, features: Tensor) -> Tensor:
        """Return features of shape (…, d), standardised, float64 on the CPU."""
        return (features.detach().cpu().double() - self.mean) / self.deviation
