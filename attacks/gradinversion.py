"""GradInversion: layer-wise norms, image and BatchNorm priors, and seeds that agree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from leakbench.attacks.matching.distance import Gradients, layerwise_norm
from leakbench.attacks.matching.matching_attack import GradientMatching
from leakbench.attacks.matching.method import CENTRED, Iterate, Method, standard_normal
from leakbench.attacks.matching.optimisers import Adam
from leakbench.attacks.matching.priors import (
    distance_to,
    group_mean,
    image_norm,
    statistics_distance,
    total_variation,
)
from leakbench.attacks.matching.schedules import warm_cosine_decay
from leakbench.base.errors import UsageError
from leakbench.base.registry import register_attack
from leakbench.federation.batch_norm import running_statistics
from leakbench.federation.shared_model import SharedModel
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@register_attack("gradinversion")
@dataclass(frozen=True, kw_only=True)
class GradInversion(GradientMatching):
    """Reconstructs images from several seeds, which are kept near their mean (Yin et al. 2021).

    1. Several seeds x̃ ~ N(0, 1) in normalised pixels; labels are recovered first (`row_minimum`).
    2. Minimise α_G Σ_l ‖∇_l − ∇*_l‖₂ + α_TV·TV + α_ℓ2·‖x̃‖₂ + α_BN·R_BN + α_group·‖x̃ − x̄‖₂, x̄
       being the mean of the seeds, from a quarter of the steps on.
    3. Adam with a warm-up and cosine decay λ(t); after each step noise λ(t)·η, η ~ N(0, 1), times
       `noise` is added to the pixels, which then are projected.

    The paper registers the seeds to one another before it takes their mean; `consensus` is the
    place for that, and is the plain mean here, renewed at each step instead of every 100. Like its
    label scheme, its group supposes that all labels of a batch differ: individuals of one label
    may have another order in each seed, so that their mean is no individual's. Where labels repeat,
    use `known` or `counts`; more seeds do harm.

    Attributes:
        seeds: runs of the group, between which the budget is divided.
        learning_rate: Adam's, in normalised pixels.
        gradient: α_G.
        tv: α_TV.
        norm: α_ℓ2.
        group: α_group.
        batch_norm: which statistics R_BN matches: those of the victim's batch (`exact`, which the
            server must have been sent), the shared model's running ones (`approximate`), or `none`.
        batch_norm_weight: α_BN.
        noise: standard deviation of the pixel noise, in learning rates.
        warm_up: share of the steps over which the learning rate rises.
        group_from: share of the steps after which the group term sets in.
    """

    title = "GradInversion"
    reference = (
        "Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov 2021, See through Gradients: Image Batch "
        "Recovery via GradInversion (CVPR), arXiv 2104.07586"
    )
    presets: ClassVar = {"paper": {"budget": 160_000, "seeds": 8}}

    seeds: Annotated[int, Field(gt=0)] = 8
    learning_rate: Annotated[float, Field(gt=0)] = 0.1
    gradient: Annotated[float, Field(ge=0)] = 1e-3
    tv: Annotated[float, Field(ge=0)] = 1e-4
    norm: Annotated[float, Field(ge=0)] = 1e-6
    group: Annotated[float, Field(ge=0)] = 0.01
    batch_norm: Literal["exact", "approximate", "none"] = "none"
    batch_norm_weight: Annotated[float, Field(ge=0)] = 0.1
    noise: Annotated[float, Field(ge=0)] = 0.2
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.0025
    group_from: Annotated[float, Field(ge=0, le=1)] = 0.25

    @property
    def runs(self) -> int:
        """The seeds."""
        return self.seeds

    @property
    def required_knowledge(self) -> Knowledge:
        """Exact BatchNorm statistics are knowledge of their own."""
        exact = self.batch_norm == "exact"
        return super().required_knowledge | (Knowledge.STATISTICS if exact else Knowledge.NOTHING)

    def method(self, server: Server) -> Method:
        """Return the algorithm of the paper."""

        def distance(gradients: Gradients, target: Gradients) -> Tensor:
            return self.gradient * layerwise_norm(gradients, target)

        return Method(
            distance=distance,
            prior=self.prior,
            optimiser=Adam(self.learning_rate),
            schedule=warm_cosine_decay(self.warm_up),
            start=standard_normal(server.image_shape),
            steps=self.steps,
            runs=self.runs,
            pixels=CENTRED,
            noise=self.noise * self.learning_rate,
        )

    def prior(self, iterate: Iterate) -> Tensor:
        """Return all terms but the gradient's, shape (R,)."""
        images = iterate.images
        value = self.tv * total_variation(images) + self.norm * image_norm(images)
        if iterate.target_statistics:
            fidelity = statistics_distance(iterate.statistics, iterate.target_statistics)
            value = value + self.batch_norm_weight * fidelity
        if self.seeds > 1:
            consensus = self.consensus(images.detach(), iterate.victim)
            weight = self.group * (iterate.done >= self.group_from)
            value = value + weight * distance_to(images, consensus)
        return value

    def consensus(self, images: Tensor, victim: Tensor) -> Tensor:
        """Return what each run should agree on: here the mean of its victim's runs.

        Args:
            images: shape (R, B, 3, size, size).
            victim: of each run, shape (R,).
        """
        return group_mean(images, victim)

    def statistics(
        self, model: SharedModel, observation: Observation
    ) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Return what R_BN matches.

        Raises:
            UsageError: the model has no BatchNorm layers.
        """
        if self.batch_norm == "none":
            return {}
        known = observation.statistics if self.batch_norm == "exact" else running_statistics(model)
        if not known:
            raise UsageError(
                f"attack 'gradinversion' with batch_norm={self.batch_norm!r} needs a model with "
                f"BatchNorm layers; set attack.batch_norm=none, model=resnet18 or "
                f"model.batch_norm=true"
            )
        return known
