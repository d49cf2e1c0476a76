"""Exact features by demixing the gradient of a hidden ReLU layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from leakbench.attacks.linear_layers.demixing.effort import Effort
from leakbench.attacks.linear_layers.demixing.search import demix_masks, has_kinks
from leakbench.attacks.linear_layers.demixing_attack import Demix, DemixingAttack
from leakbench.attacks.linear_layers.head import Head
from leakbench.base.errors import UsageError
from leakbench.base.registry import register_attack


@register_attack("mask_demixing")
@dataclass(frozen=True, kw_only=True)
class MaskDemixing(DemixingAttack):
    """Finds each individual's feature exactly where the split is before hidden ReLU layers.

    The layer's gradient is a sum over individuals of a mask of active units, times what their loss
    says of these, times their feature: `attacks.demixing` finds all three. Labels need not be
    known, they come out too. It searches by relaxed reflections, and where the classes are many by
    Newton's method. Of several hidden layers the last is demixed, then those before it one by one.

    Attributes:
        reflections: iterations of the relaxed reflections, at most.
        quiet: iterations without anybody new after which they end.
        reflected_at_once: runs of these, of each victim batch.
    """

    title = "Mask demixing"
    version = 2
    reference = (
        "none for the attack; its searches: Elser, Rankenburg, Thibault 2007, Searching with "
        "iterated maps (PNAS), and Levenberg 1944, Marquardt 1963; its fallback: Yang, Wang, Li "
        "2022, Individual Property Inference over Collaborative Learning in Deep Feature Space "
        "(ICME)"
    )

    reflections: Annotated[int, Field(ge=0)] = 20_000
    quiet: Annotated[int, Field(gt=0)] = 2_000
    reflected_at_once: Annotated[int, Field(gt=0)] = 128

    @property
    def demix(self) -> Demix:
        """By masks."""
        return demix_masks

    @property
    def effort(self) -> Effort:
        """How long to search."""
        return Effort(
            rounds=self.rounds,
            runs=self.runs_at_once,
            patience=self.patience,
            reflections=self.reflections,
            quiet=self.quiet,
            reflected=self.reflected_at_once,
        )

    def check_head(self, head: Head) -> None:
        """Refuse a classifier without hidden layers, or with other activations.

        Raises:
            UsageError: names what to use.
        """
        if not has_kinks(head):
            raise UsageError(
                f"attack {self.name!r} needs a classifier of hidden layers with ReLU or leaky "
                f"ReLU; take newton_demixing for other activations and for an output layer alone"
            )
