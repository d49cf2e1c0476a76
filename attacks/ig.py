"""IG, Inverting Gradients: cosine distance, total variation, signed Adam."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from leakbench.attacks.matching.distance import cosine_distance
from leakbench.attacks.matching.matching_attack import GradientMatching
from leakbench.attacks.matching.method import CENTRED, Iterate, Method, standard_normal
from leakbench.attacks.matching.optimisers import Adam
from leakbench.attacks.matching.priors import total_variation
from leakbench.attacks.matching.schedules import step_decay
from leakbench.base.registry import register_attack
from leakbench.threat.server import Server


@register_attack("ig")
@dataclass(frozen=True, kw_only=True)
class InvertingGradients(GradientMatching):
    """Reconstructs images by minimising 1 − cos(∇, ∇*) + α·TV(x̃) (Geiping et al. 2020).

    1. x̃ ~ N(0, 1) in normalised pixels; labels are known.
    2. Adam on the sign of the gradient (of distance and prior together), learning rate ×0.1 at 3/8,
       5/8 and 7/8 of the steps; box projection to the pixel range after each.
    3. Of several restarts the one with the least distance, prior left out.

    Attributes:
        tv: α, the weight of the total variation.
        learning_rate: Adam's, in normalised pixels, of which there are 2 between black and white.
        restarts: independent starts, between which the budget is divided.
    """

    title = "IG"
    reference = (
        "Geiping, Bauermeister, Dröge, Moeller 2020, Inverting Gradients: How Easy Is It to Break "
        "Privacy in Federated Learning? (NeurIPS), arXiv 2003.14053"
    )
    presets: ClassVar = {
        "paper": {"budget": 24_000, "tv": 1e-4},
        "fast": {"budget": 4_000, "tv": 1e-6},
    }

    tv: Annotated[float, Field(ge=0)] = 1e-4
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    restarts: Annotated[int, Field(gt=0)] = 1

    @property
    def runs(self) -> int:
        """The restarts."""
        return self.restarts

    def method(self, server: Server) -> Method:
        """Return the algorithm box of the paper."""

        def prior(iterate: Iterate) -> Tensor:
            return self.tv * total_variation(iterate.images)

        return Method(
            distance=cosine_distance,
            prior=prior,
            optimiser=Adam(self.learning_rate, signed=True),
            schedule=step_decay,
            start=standard_normal(server.image_shape),
            steps=self.steps,
            runs=self.runs,
            pixels=CENTRED,
            factors=True,
        )
