"""What gradient-matching attacks share: from observations to dummies, and on to properties."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from attacks.gradient_matching import match_gradients
from attacks.labels import Scheme, recover_labels
from attacks.method import Method, Reconstruction, Victim
from bench.federation import in_mode
from bench.image_property_model import image_property_model
from bench.models import SharedModel, deep_features
from bench.threat import Attack, Inference, Knowledge, Observation, Progress, Server

Labels = Literal["known", "joint", Scheme]
Reader = Literal["features", "images"]


@dataclass(frozen=True, kw_only=True)
class GradientMatching(Attack):
    """Finds dummy images whose gradient is the update, and reads properties off them.

    Attributes:
        budget: gradient evaluations per victim batch, all runs together.
        labels: `known` labels are granted; `joint` ones are optimised with the images, one soft
            label for each individual; any other is a scheme of label recovery, run first.
        reads: what properties are read off: `features` by f_p on the dummies' deep features
            f_n(x̃), or `images` by a classifier trained on the images of D_aux.
    """

    budget: Annotated[int, Field(gt=0)] = 400
    labels: Labels = "known"
    reads: Reader = "features"

    def __post_init__(self) -> None:
        if self.budget < self.runs:
            raise ValueError(f"budget must be at least one evaluation for each of {self.runs} runs")

    @property
    def runs(self) -> int:
        """Runs a victim gets, between which the budget is divided."""
        return 1

    @property
    def steps(self) -> int:
        """Evaluations of one run."""
        return self.budget // self.runs

    @property
    def needs(self) -> Knowledge:
        """The model, the update and D_aux; labels too if they are to be known."""
        base = Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY
        return base | Knowledge.LABELS if self.labels == "known" else base

    @abstractmethod
    def method(self, server: Server) -> Method:
        """Return the attack's method."""

    def statistics(
        self,
        model: SharedModel,  # noqa: ARG002
        observation: Observation,  # noqa: ARG002
    ) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Return the BatchNorm statistics that the method's prior matches, if it has such."""
        return {}

    def work(self, batch_size: int) -> float:
        """All gradient evaluations of an individual; small batches use the processor worse."""
        return self.budget * (1 + 2 / batch_size)

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[Inference]:
        """Reconstruct each batch's images and read the properties off them."""
        assert server.model is not None
        found = match_gradients(
            in_mode(server.model, server.mode),
            self.method(server),
            [self._victim(server, observation) for observation in observations],
            server.classes,
            progress,
        )
        return [self._inference(server, reconstruction) for reconstruction in found]

    def _victim(self, server: Server, observation: Observation) -> Victim:
        assert server.model is not None and observation.update is not None
        return Victim(
            update=observation.update,
            labels=self._labels(server, observation),
            batch_size=observation.batch_size,
            seed=observation.seed,
            statistics=self.statistics(server.model, observation),
        )

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
        return recover_labels(self.labels, model, update, observation.batch_size, expected)

    def _inference(self, server: Server, found: Reconstruction) -> Inference:
        model, space = server.model, server.feature_space
        assert model is not None and space is not None
        features = deep_features(model, found.images)
        if self.reads == "features":
            scores = space.property_model(features)
        else:
            scores = image_property_model(server)(found.images.clamp(0, 1))
        return Inference(
            scores=scores,
            features=features,
            images=found.images,
            labels=found.labels,
            loss=found.loss,
            steps=found.steps,
            restarts=found.restarts,
            diverged=found.diverged,
        )
