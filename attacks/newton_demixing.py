"""Exact features from the gradient of smooth layers, or of an output layer alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from leakbench.attacks.linear_layers.activations import Smooth
from leakbench.attacks.linear_layers.demixing.search import demix_smooth
from leakbench.attacks.linear_layers.demixing_attack import Demix, DemixingAttack
from leakbench.attacks.linear_layers.head import Head
from leakbench.base.errors import UsageError
from leakbench.base.registry import register_attack


@register_attack("newton_demixing")
@dataclass(frozen=True, kw_only=True)
class NewtonDemixing(DemixingAttack):
    """Finds each individual's feature exactly where the split is before smooth layers.

    Who has [h, 1] in the row space of the first layer's gradient, and makes an error in its column
    space, is in the batch: m − B equations for B − 1 unknowns, see
    `linear_layers.demixing.newton`. With an output layer alone m is K − 1, so up to about K / 2
    individuals are found, of whatever label; of more the gradient does not tell enough for each
    alone, and gradient matching answers.
    """

    title = "Newton demixing"
    version = 2
    reference = (
        "none for the attack; its search: Levenberg 1944, Marquardt 1963; its fallback: Yang, "
        "Wang, Li 2022, Individual Property Inference over Collaborative Learning in Deep Feature "
        "Space (ICME)"
    )
    example_setup: ClassVar[Mapping[str, Any]] = {"split": "hidden"}

    @property
    def demix(self) -> Demix:
        """In the row space."""
        return demix_smooth

    def check_head(self, head: Head) -> None:
        """Refuse a classifier with kinks.

        Raises:
            UsageError: names what to use.
        """
        if not all(isinstance(layer.activation, Smooth) for layer in head.layers[:-1]):
            raise UsageError(
                f"attack {self.name!r} needs smooth activations, such as GELU, or an output layer "
                f"alone; take mask_demixing where all are ReLU or leaky ReLU"
            )
