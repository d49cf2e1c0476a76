"""Newton demixing: exact features from the gradient of smooth layers, or an output layer alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from leakbench.attacks.linear_layers.activations import Smooth
from leakbench.attacks.linear_layers.demixing.auxiliary_population import AuxiliaryPopulation
from leakbench.attacks.linear_layers.demixing.groups import counted_from
from leakbench.attacks.linear_layers.demixing.newton import Newton, affordable_runs
from leakbench.attacks.linear_layers.demixing.problem import smooth_problem
from leakbench.attacks.linear_layers.demixing.recovered import (
    RecoveredIndividuals,
    none_recovered,
)
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.linear_layers.demixing_attack import DemixingAttack
from leakbench.attacks.linear_layers.head import Head
from leakbench.base.errors import UsageError
from leakbench.base.registry import register_attack


@register_attack("newton_demixing")
@dataclass(frozen=True, kw_only=True)
class NewtonDemixing(DemixingAttack):
    """Finds each individual's feature exactly where the split is before smooth layers.

    The gradient of the first layer's [W, b] is G = Σ_i x_i [h_i, 1]ᵀ over the B individuals, as for
    mask_demixing, with x_i any vector of errors. So

    1. [h_i, 1] = V a_i lies in the row space of G, x_i in its column space, both of dimension B;
    2. an individual is an a whose feature makes, with some label, an x in the column space: m − B
       equations for B − 1 unknowns, which Newton's method solves from individuals of D_aux;
    3. every individual that is found takes a dimension from the space of the others;
    4. each feature runs through the layers again: that certifies it without the truth.

    With an output layer alone m is K − 1, so up to about K / 2 individuals are found, of any
    labels; for larger batches there are too few equations, and the fallback answers.
    """

    title = "Newton demixing"
    version = 2
    reference = (
        "none for the attack; its search: Levenberg 1944, Marquardt 1963; its fallback: Yang, "
        "Wang, Li 2022, Individual Property Inference over Collaborative Learning in Deep Feature "
        "Space (ICME)"
    )
    example_setup: ClassVar[Mapping[str, Any]] = {"split": "hidden"}

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

    def demix(
        self,
        head: Head,
        batches: Sequence[VictimBatch],
        population: AuxiliaryPopulation,
        on_finished: Callable[[float], None],
    ) -> list[RecoveredIndividuals]:
        """Demix the first layer of each batch."""
        recovered = []
        for number, batch in enumerate(batches):
            problem = smooth_problem(head, batch, population)
            if problem is None:
                recovered.append(none_recovered(head))
                continue
            if problem.is_determined:
                newton = Newton(problem, affordable_runs(problem, self.runs_at_once))
                newton.search(self.search_budget, counted_from(number, on_finished))
            recovered.append(problem.recovered)
        return recovered
