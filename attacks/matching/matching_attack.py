"""What gradient-matching attacks share: from observations to dummies, and on to properties."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from leakbench.attacks.linear_layers.auxiliary_fallback import auxiliary_result, has_finite_update
from leakbench.attacks.matching.engine import match_gradients
from leakbench.attacks.matching.method import Method, Reconstruction, Victim
from leakbench.attacks.matching.posterior import (
    image_prior,
    masked,
    mostly_noise,
    posterior,
    weighed,
)
from leakbench.attacks.matching.simulation import simulation_of
from leakbench.base.errors import UsageError
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.shared_model import SharedModel, deep_features
from leakbench.threat.attack import Attack, AttackResult, Progress
from leakbench.threat.batch_labels import expected_predictions
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.label_recovery import Scheme, recover_labels
from leakbench.threat.observation import Observation
from leakbench.threat.property_models.image import image_property_model
from leakbench.threat.server import Server

Labels = Literal["known", "joint", Scheme]
Reader = Literal["features", "images"]

IMAGE_AXES = 3
"""Of an image: channels, height and width."""


@dataclass(frozen=True, kw_only=True)
class GradientMatching(Attack):
    """Optimises dummy images until their gradient is the update, and infers properties from them.

    Where the cell grants the `defense`, entries that it withholds are ignored, the defense is
    applied to the dummies' updates, and an update that is mostly noise is matched by the posterior,
    see `leakbench.attacks.matching.posterior`.

    Attributes:
        budget: gradient evaluations per victim batch, all runs together.
        labels: `known` labels are granted; `joint` ones are optimised with the images, one soft
            label for each individual; any other is a scheme of label recovery, run first.
        reads: what properties are inferred from: `features` by f_p on the dummies' deep features
            f_n(x̃), or `images` by a classifier trained on the images of D_aux.
    """

    optional_knowledge: ClassVar = Knowledge.DEFENSE
    example_parameters: ClassVar = {"budget": 8}

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
    def required_knowledge(self) -> Knowledge:
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
        """Return the BatchNorm statistics that the method's prior matches, if it has one."""
        return {}

    def work(self, batch_size: int) -> float:
        """All gradient evaluations of an individual; small batches use the processor less well."""
        return self.budget * (1 + 2 / batch_size)

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Reconstruct each batch's images and read the properties off them.

        For a batch whose update is not finite the result is individuals of D_aux.

        Raises:
            UsageError: the model takes no images, or clients compute another loss than the mean
                cross-entropy.
        """
        assert server.model is not None
        if len(server.image_shape) != IMAGE_AXES:
            raise UsageError(
                f"attack {self.name!r} reconstructs images, but this model takes inputs of shape "
                f"{server.image_shape}; take feature_direct, which reconstructs features alone"
            )
        if not server.model.loss.is_plain:
            raise UsageError(
                f"attack {self.name!r} matches the gradient of the mean cross-entropy, and clients "
                f"compute {server.model.loss.in_words}; take feature_direct"
            )
        readable = [has_finite_update(observation) for observation in observations]
        expected = expected_predictions(server) if self.labels == "counts" else None
        victims = [
            self._victim(server, observation, expected)
            for observation, is_finite in zip(observations, readable, strict=True)
            if is_finite
        ]
        if server.defense is None:
            found = self._found(server, self.method(server), victims, progress)
        else:
            found = self._found_behind(server, victims, progress)
        progress(1.0)
        read, reconstructions = self._reader(server), iter(found)
        return [
            self._result(server, next(reconstructions), read)
            if is_finite
            else auxiliary_result(server, observation, images=True)
            for observation, is_finite in zip(observations, readable, strict=True)
        ]

    def _victim(self, server: Server, observation: Observation, expected: Tensor | None) -> Victim:
        assert server.model is not None and observation.update is not None
        return Victim(
            update=observation.update,
            labels=self._labels(server.model, observation, expected),
            batch_size=observation.batch_size,
            seed=observation.seed,
            statistics=self.statistics(server.model, observation),
            reliability={}
            if server.defense is None
            else server.defense.reliability(dict(observation.update), observation.batch_size),
        )

    def _found_behind(
        self, server: Server, victims: Sequence[Victim], progress: Progress
    ) -> list[Reconstruction]:
        """Reconstruct behind a known defense: by the posterior where the update is mostly noise."""
        assert server.auxiliary is not None
        method = self.method(server)
        noisy = [mostly_noise(victim) for victim in victims]
        clear = [masked(v) for v, is_noisy in zip(victims, noisy, strict=True) if not is_noisy]
        hidden = [weighed(v) for v, is_noisy in zip(victims, noisy, strict=True) if is_noisy]
        share = len(clear) / max(1, len(victims))
        by_distance = self._found(server, method, clear, lambda done: progress(share * done))
        by_posterior: list[Reconstruction] = []
        if hidden:
            by_posterior = self._found(
                server,
                posterior(method, image_prior(server.auxiliary.images)),
                hidden,
                lambda done: progress(share + (1 - share) * done),
            )
        first, second = iter(by_distance), iter(by_posterior)
        return [next(second if is_noisy else first) for is_noisy in noisy]

    def _found(
        self, server: Server, method: Method, victims: Sequence[Victim], progress: Progress
    ) -> list[Reconstruction]:
        assert server.model is not None
        model = in_mode(server.model, server.mode)
        simulation = None
        if server.defense is not None and victims:
            size = victims[0].batch_size
            simulation = simulation_of(server.defense, model, size, server.learning_rate)
        return match_gradients(
            model,
            method,
            victims,
            server.classes,
            progress,
            server.compiling,
            server.precision,
            simulation,
        )

    def _labels(
        self, model: SharedModel, observation: Observation, expected: Tensor | None
    ) -> Tensor | None:
        """Return the dummies' labels, shape (B,), or None where they are to be optimised."""
        if self.labels == "known":
            return observation.labels
        if self.labels == "joint":
            return None
        assert observation.update is not None
        size = observation.batch_size
        return recover_labels(self.labels, model, observation.update, size, expected)

    def _reader(self, server: Server) -> Callable[[Tensor, Tensor], dict[str, Tensor]]:
        """Return the function from images and their deep features to properties."""
        if self.reads == "images":
            of_images = image_property_model(server)
            return lambda images, _features: of_images(images.clamp(0, 1))
        assert server.feature_space is not None
        of_features = server.feature_space.property_model
        return lambda _images, features: of_features(features)

    def _result(
        self,
        server: Server,
        found: Reconstruction,
        read: Callable[[Tensor, Tensor], dict[str, Tensor]],
    ) -> AttackResult:
        assert server.model is not None
        model, space = server.model, server.feature_space
        if space is not None and space.by_batch:
            model = in_mode(model, server.mode)
        features = deep_features(model, found.images)
        return AttackResult(
            scores=read(found.images, features),
            features=features,
            images=found.images,
            labels=found.labels,
            loss=found.loss,
            steps=found.steps,
            restarts=found.restarts,
            compiled=found.compiled,
            diverged=found.diverged,
        )
