"""Mask demixing: exact features from the gradient of hidden ReLU layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from pydantic import Field

from leakbench.attacks.linear_layers.demixing.auxiliary_population import AuxiliaryPopulation
from leakbench.attacks.linear_layers.demixing.groups import counted_from
from leakbench.attacks.linear_layers.demixing.inner_layers import recovered_at_first_layer
from leakbench.attacks.linear_layers.demixing.newton import Newton, affordable_runs
from leakbench.attacks.linear_layers.demixing.problem import MaskedProblem, masked_problem
from leakbench.attacks.linear_layers.demixing.recovered import RecoveredIndividuals
from leakbench.attacks.linear_layers.demixing.reflections import (
    WIDEST,
    Reflections,
    batches_side_by_side,
)
from leakbench.attacks.linear_layers.demixing.search_budget import SearchBudget
from leakbench.attacks.linear_layers.demixing.victim_batch import VictimBatch
from leakbench.attacks.linear_layers.demixing_attack import DemixingAttack
from leakbench.attacks.linear_layers.head import Head
from leakbench.base.errors import UsageError
from leakbench.base.registry import register_attack


@register_attack("mask_demixing")
@dataclass(frozen=True, kw_only=True)
class MaskDemixing(DemixingAttack):
    """Finds each individual's feature exactly where the split is before hidden ReLU layers.

    The gradient of the layer's [W, b] is G = Σ_i x_i [h_i, 1]ᵀ over the B individuals: h_i is an
    individual's feature, x_i = ∂ℓ_i / ∂z the error of its loss at the m units, over B. Before the
    output layer, x_i is a mask of active units times W_oᵀ r_i, r_i being its residual p − y. So

    1. the x_i lie in the column space of G and the [h_i, 1] in its row space, of dimension B where
       B ≤ m and d; the r_i lie in the column space of the output layer's gradient;
    2. relaxed reflections find masks that fit these spaces; with many classes, Newton's method;
    3. with all of them, X = [x_1 … x_B], least squares gives [h_i, 1] = (X⁺ G)_i;
    4. each h_i runs through the layers again and must make its x_i, with the label that fits: that
       certifies an individual without the truth.

    Of several hidden layers the last is demixed first, then those before it one by one. Labels need
    not be known. `spear` uses instead that the x_i are sparse.

    Attributes:
        reflections: iterations of the relaxed reflections, at most.
        quiet: iterations without a new individual after which they end.
        reflected_at_once: runs of the relaxed reflections, of each victim batch.
    """

    title = "Mask demixing"
    version = 2
    reference = (
        "none for the attack; its searches: Elser, Rankenburg, Thibault 2007, Searching with "
        "iterated maps (PNAS), and Levenberg 1944, Marquardt 1963; its fallback: Yang, Wang, Li "
        "2022, Individual Property Inference over Collaborative Learning in Deep Feature Space "
        "(ICME)"
    )
    example_parameters: ClassVar = {"budget": 8, "reflections": 200}

    reflections: Annotated[int, Field(ge=0)] = 20_000
    quiet: Annotated[int, Field(gt=0)] = 2_000
    reflected_at_once: Annotated[int, Field(gt=0)] = 128

    @property
    def search_budget(self) -> SearchBudget:
        """How long to search."""
        return replace(
            super().search_budget,
            reflections=self.reflections,
            reflection_patience=self.quiet,
            reflection_runs=self.reflected_at_once,
        )

    def check_head(self, head: Head) -> None:
        """Refuse a classifier without hidden layers, or with other activations.

        Raises:
            UsageError: names what to use.
        """
        if not head.has_kinks:
            raise UsageError(
                f"attack {self.name!r} needs a classifier of hidden layers with ReLU or leaky "
                f"ReLU; take newton_demixing for other activations and for an output layer alone"
            )

    def first_demixed(self, head: Head) -> int:
        """The last hidden layer is demixed first."""
        return len(head.layers) - 2

    def batches_together(self, head: Head, individuals: int) -> int:
        """As many as the runs of reflections have room for."""
        last = head.after(self.first_demixed(head))
        return batches_side_by_side(last, self.reflected_at_once, individuals)

    def demix(
        self,
        head: Head,
        batches: Sequence[VictimBatch],
        population: AuxiliaryPopulation,
        on_finished: Callable[[float], None],
    ) -> list[RecoveredIndividuals]:
        """Demix the last hidden layer of each batch, and go back to the first."""
        last = head.after(self.first_demixed(head))
        problems = [masked_problem(last, batch, population) for batch in batches]
        self._search(problems, on_finished)
        return [
            recovered_at_first_layer(head, problem.batch, problem.recovered) for problem in problems
        ]

    def _search(
        self, problems: Sequence[MaskedProblem], on_finished: Callable[[float], None]
    ) -> None:
        """Search by reflections where the residuals' space is narrow, else by Newton's method."""
        solvable = [problem for problem in problems if problem.space.tells_apart]
        narrow = [each for each in solvable if each.space.directions.shape[1] <= WIDEST]
        wide = [each for each in solvable if each.space.directions.shape[1] > WIDEST]
        if narrow:
            reflections = Reflections(narrow, self.reflected_at_once)
            reflections.search(self.search_budget, lambda share: on_finished(share * len(narrow)))
        for number, problem in enumerate(wide, len(narrow)):
            newton = Newton(problem, affordable_runs(problem, self.runs_at_once))
            newton.search(self.search_budget, counted_from(number, on_finished))
