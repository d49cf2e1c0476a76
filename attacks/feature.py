"""The proposed attack: individual properties from reconstructed deep features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.distance import TINY, cosine_gaussian_distance, squared_norm
from attacks.gradient_matching import Gradients, Objective, match_gradients
from attacks.labels import label_counts_from_bias
from bench.models import deep_features
from bench.registry import register_attack
from bench.threat import Attack, Inference, Knowledge, Observation, Progress, Server, part_of


@register_attack("feature")
@dataclass(frozen=True, kw_only=True)
class FeatureReconstruction(Attack):
    """Yang, Wang, Li 2022: match the gradient, read properties off the dummies' deep features.

    1. Dummy data (x̃, ỹ) with gradients g̃_n of f_n and g̃_c of f_c (Eq. 1).
    2. Minimise L = λ · d(g_n, g̃_n) + d(g_c, g̃_c) (Eq. 2), d being Eq. 3.
    3. E(X) := f_n(x̃*) at the best x̃ (Eq. 4), and f_p(E(X)) answers every property.

    Not public, and chosen here: λ, σ², the optimiser (Adam, cosine decay, box projection), the
    start (grey with a little noise).

    Attributes:
        steps: gradient evaluations per batch and restart.
        learning_rate: Adam's, in pixel values.
        lam: λ, the weight of the feature extractor's gradient; 0 leaves it out.
        kernel_width: σ² of Eq. 3 as a multiple of ‖g‖² of each part.
        labels: `known` labels are granted; `recovered` ones are read off the output layer's bias
            gradient first; `joint` ones are optimised with the images, softly.
        start_noise: standard deviation of the noise around grey at the start.
        restarts: independent starts, of which the one with the least loss counts.
    """

    title = "Proposed"
    reference = (
        "Yang, Wang, Li 2022, Individual Property Inference over Collaborative Learning in Deep "
        "Feature Space (ICME), doi 10.1109/ICME52920.2022.9859857"
    )

    steps: Annotated[int, Field(gt=0)] = 300
    learning_rate: Annotated[float, Field(gt=0)] = 0.02
    lam: Annotated[float, Field(ge=0)] = 0.1
    kernel_width: Annotated[float, Field(gt=0)] = 1.0
    labels: Literal["known", "recovered", "joint"] = "known"
    start_noise: Annotated[float, Field(ge=0)] = 0.05
    restarts: Annotated[int, Field(gt=0)] = 1

    @property
    def needs(self) -> Knowledge:
        """The model, the update and D_aux; labels too if they are to be known."""
        base = Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY
        return base | Knowledge.LABELS if self.labels == "known" else base

    def work(self, batch_size: int) -> float:
        """All gradient evaluations of an individual; small batches use the processor worse."""
        return self.steps * self.restarts * (1 + 2 / batch_size)

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[Inference]:
        """Reconstruct each batch's features and read the properties off them."""
        total = len(observations)
        return [
            self._infer_one(server, observation, part_of(progress, number, total))
            for number, observation in enumerate(observations)
        ]

    def objective(self, update: Gradients) -> Objective:
        """Return L of Eq. 2 for an observed update."""
        parts = [
            (weight, names, [update[name] for name in names])
            for weight, prefix in ((self.lam, "extractor."), (1.0, "classifier."))
            if weight and (names := [name for name in update if name.startswith(prefix)])
        ]
        widths = [
            self.kernel_width * squared_norm(target).clamp_min(TINY) for _, _, target in parts
        ]

        def loss(gradients: Gradients) -> Tensor:
            distances = [
                weight * cosine_gaussian_distance([gradients[n] for n in names], target, width)
                for (weight, names, target), width in zip(parts, widths, strict=True)
            ]
            return torch.stack(distances).sum()

        return loss

    def _infer_one(self, server: Server, observation: Observation, progress: Progress) -> Inference:
        model, space, update = server.model, server.feature_space, observation.update
        assert model is not None and space is not None and update is not None
        objective = self.objective(update)
        generator = torch.Generator().manual_seed(observation.seed)
        labels = self._labels(server, observation)
        tries = [
            match_gradients(
                model,
                objective,
                start=self._start(server, observation, generator).to(space.features.device),
                labels=labels,
                classes=server.classes,
                steps=self.steps,
                learning_rate=self.learning_rate,
                generator=generator,
                progress=part_of(progress, restart, self.restarts),
            )
            for restart in range(self.restarts)
        ]
        best = min(tries, key=lambda found: found.loss)
        features = deep_features(model, best.images)
        return Inference(
            scores=space.property_model(features),
            features=features,
            images=best.images,
            labels=best.labels,
            loss=best.loss,
            steps=sum(found.steps for found in tries),
            diverged=not math.isfinite(best.loss),
        )

    def _start(
        self, server: Server, observation: Observation, generator: torch.Generator
    ) -> Tensor:
        """Return grey with a little noise, shape (B, 3, size, size)."""
        shape = (observation.batch_size, *server.image_shape)
        return (0.5 + self.start_noise * torch.randn(shape, generator=generator)).clamp(0, 1)

    def _labels(self, server: Server, observation: Observation) -> Tensor | None:
        """Return the dummies' labels, shape (B,), or None where they are to be optimised."""
        model, space, update = server.model, server.feature_space, observation.update
        assert model is not None and space is not None and update is not None
        if self.labels == "known":
            return observation.labels
        if self.labels == "joint":
            return None
        with torch.no_grad():
            expected = model.classifier(space.features).softmax(1).mean(0)
        return label_counts_from_bias(update[model.output_bias], expected, observation.batch_size)
