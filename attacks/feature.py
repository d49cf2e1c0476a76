"""The proposed attack: individual properties from reconstructed deep features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from leakbench.attacks.matching.distance import (
    FactoredGradients,
    Target,
    cosine_gaussian_distance,
    squared_norm,
)
from leakbench.attacks.matching.matching_attack import GradientMatching
from leakbench.attacks.matching.method import Method, Start, Victim
from leakbench.attacks.matching.optimisers import LBFGS, Adam
from leakbench.attacks.matching.schedules import constant, cosine_decay
from leakbench.base.registry import register_attack
from leakbench.threat.server import Auxiliary, Server


@register_attack("feature")
@dataclass(frozen=True, kw_only=True)
class FeatureReconstruction(GradientMatching):
    """Matches the gradient, and reads properties off dummies' deep features (Yang, Wang, Li 2022).

    1. Dummy data (x̃, ỹ) with gradients g̃_n of f_n and g̃_c of f_c (Eq. 1).
    2. Minimise L = λ · d(g_n, g̃_n) + d(g_c, g̃_c) (Eq. 2), d being Eq. 3.
    3. E(X) := f_n(x̃*) at the best x̃ (Eq. 4), and f_p(E(X)) answers every property.

    Not public, and chosen here: λ, σ², the optimiser (Adam, cosine decay, box projection), the
    start (grey with a little noise), and labels that are known; Eq. 1 has dummy labels ỹ, which
    `labels=joint` optimises.

    Attributes:
        learning_rate: Adam's, in pixel values.
        lam: λ, the weight of the feature extractor's gradient; 0 leaves it out.
        kernel_width: σ² of Eq. 3 as a multiple of ‖g‖² of each part.
        start: `grey`, or `auxiliary` images, of D_aux's individuals with the dummies' labels.
        start_noise: standard deviation of the noise around grey at the start.
        restarts: independent starts, between which the budget is divided.
    """

    title = "Proposed"
    version = 2
    reference = (
        "Yang, Wang, Li 2022, Individual Property Inference over Collaborative Learning in Deep "
        "Feature Space (ICME), doi 10.1109/ICME52920.2022.9859857"
    )

    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    lam: Annotated[float, Field(ge=0)] = 0.1
    kernel_width: Annotated[float, Field(gt=0)] = 1.0
    start: Literal["grey", "auxiliary"] = "grey"
    start_noise: Annotated[float, Field(ge=0)] = 0.05
    restarts: Annotated[int, Field(gt=0)] = 1

    @property
    def runs(self) -> int:
        """The restarts."""
        return self.restarts

    def method(self, server: Server) -> Method:
        """Return Eqs. 1–3 with an optimiser."""
        assert server.auxiliary is not None
        return Method(
            distance=self.distance,
            optimiser=Adam(self.learning_rate),
            schedule=cosine_decay,
            start=self._grey(server) if self.start == "grey" else _individuals(server.auxiliary),
            steps=self.steps,
            runs=self.runs,
            factors=True,
        )

    def distance(self, gradients: FactoredGradients, target: Target) -> Tensor:
        """Return L of Eq. 2, shape (R,)."""
        value = torch.zeros_like(squared_norm(next(iter(target.values()))))
        for weight, part in ((self.lam, "extractor."), (1.0, "classifier.")):
            of_part = {name: g for name, g in target.items() if name.startswith(part)}
            if weight and of_part:
                value = value + weight * cosine_gaussian_distance(
                    gradients, of_part, self.kernel_width
                )
        return value

    def _grey(self, server: Server) -> Start:
        size = server.image_shape

        def start(victim: Victim, generator: torch.Generator) -> Tensor:
            noise = torch.randn(victim.batch_size, *size, generator=generator)
            return (0.5 + self.start_noise * noise).clamp(0, 1)

        return start


@register_attack("feature_lbfgs")
@dataclass(frozen=True, kw_only=True)
class QuasiNewtonFeatureReconstruction(FeatureReconstruction):
    """The proposed attack with another optimiser: L-BFGS, which needs a fraction of the steps.

    The paper does not name its optimiser. Eq. 3 is smooth and its scale known, between 0 and 3, so
    that full steps along the quasi-Newton direction hardly ever fail. Images are kept in the pixel
    range at first: without it the first steps, of little known curvature, can lead where there is
    no way back. Later they are not: runs get stuck at the walls. A run without progress starts
    afresh.

    Attributes:
        learning_rate: length of a step along the direction.
        projected: in how many evaluations from a start on images are kept in the pixel range.
    """

    title = "Proposed, L-BFGS"
    version = 2
    # Its steps multiply rounding, which differs between processors, faster than others do.
    example_parameters: ClassVar = {"budget": 4}

    learning_rate: Annotated[float, Field(gt=0)] = 1.0
    projected: Annotated[int, Field(ge=0)] = 25

    def method(self, server: Server) -> Method:
        """Return Eqs. 1–3 with L-BFGS."""
        return replace(
            super().method(server),
            optimiser=LBFGS(self.learning_rate),
            schedule=constant,
            projected=self.projected,
            patience=PATIENCE,
        )


def _individuals(auxiliary: Auxiliary) -> Start:
    """Return a start from images of D_aux's individuals, of the dummies' labels if known."""

    def start(victim: Victim, generator: torch.Generator) -> Tensor:
        return auxiliary.images[auxiliary.draw(victim.labels, victim.batch_size, generator)]

    return start


PATIENCE = 40
"""Evaluations without progress after which a run of L-BFGS is stuck."""
