"""A victim batch to be demixed: its update, and what is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from leakbench.attacks.linear_layers.demixing.gradient_space import precision_of
from leakbench.attacks.linear_layers.demixing.observed_gradient import ObservedGradient
from leakbench.attacks.linear_layers.demixing.withheld import completed, withheld_of
from leakbench.attacks.linear_layers.head import Head, Layer


@dataclass(frozen=True)
class VictimBatch:
    """One victim batch as the server sees it.

    Attributes:
        update: as it was sent.
        individuals: B.
        seed: of the searches.
        reliability: weights that a known defense gives the update's entries, see
            `Defense.reliability`.
    """

    update: Mapping[str, Tensor]
    individuals: int
    seed: int
    reliability: Mapping[str, Tensor] = field(default_factory=dict)

    def precision(self, head: Head) -> float:
        """Return the unit of the last place of the update's numbers."""
        return precision_of(head, self.update)

    def is_finite(self, head: Head) -> bool:
        """Return whether all gradients of the head's layers are finite."""
        names = [name for layer in head.layers for name in layer.names]
        return all(bool(self.update[name].isfinite().all()) for name in names)

    def observed(self, layer: Layer) -> ObservedGradient:
        """Return the layer's gradient, completed where a part of it was withheld."""
        withheld = withheld_of(layer, self.update, self.reliability)
        return completed(layer.gradient(self.update), withheld, self.individuals)
