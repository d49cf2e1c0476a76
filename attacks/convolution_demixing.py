"""Convolution demixing: exact features from networks with one linear layer after an average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field

from leakbench.attacks.convolutional_ends.batch_normalised import as_frozen, can_be_frozen
from leakbench.attacks.convolutional_ends.end import ConvolutionalEnd
from leakbench.attacks.convolutional_ends.gradient import position_gradient
from leakbench.attacks.convolutional_ends.positions import (
    no_individuals,
    recovered_individuals,
)
from leakbench.attacks.convolutional_ends.rules import CONVOLUTION
from leakbench.attacks.convolutional_ends.whole_search import PositionBudget, found_columns
from leakbench.attacks.demixable_ends.registry import end_of
from leakbench.attacks.linear_layers.auxiliary_fallback import has_finite_update
from leakbench.attacks.linear_layers.certifying_attack import (
    CertifyingAttack,
    refuse_batch_statistics,
    refuse_other_losses,
)
from leakbench.attacks.linear_layers.demixing.recovered import RecoveredIndividuals
from leakbench.base.errors import UsageError
from leakbench.base.registry import register_attack
from leakbench.federation.batch_norm import batch_norm_layers
from leakbench.federation.shared_model import SharedModel
from leakbench.threat.attack import Progress
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@register_attack("convolution_demixing")
@dataclass(frozen=True, kw_only=True)
class ConvolutionDemixing(CertifyingAttack):
    """Finds each individual's feature exactly in networks that end in one linear layer.

    With h = mean over P positions of φ(W a_p + b), BatchNorm in W and b, the gradient of the last
    convolution is G = Σ_ip x_ip [a_ip, 1]ᵀ over individuals and positions: that of a hidden linear
    layer with B·P individuals. x_ip is a mask of active channels times W_oᵀ r_i / P, r_i being the
    residual p − y of the individual, over B. So

    1. alternating projections find masks that fit the column space of G, which zeros at the edges
       of maps take apart; its sparse vectors are masks, or what two masks differ by; relaxed
       reflections find those that are left with z = W a + b, whose space each that is found makes
       smaller;
    2. with all B·P of them least squares gives every a_ip;
    3. what a shortcut adds to z follows from the gradients of the convolutions beside it;
    4. the positions that share r_i are one individual's; their average is its feature;
    5. masks, p − e_y = B r_i, and the output layer's gradient certify it without the truth.

    Labels need not be known. B·P must be below the convolution's inputs and about half its
    channels. The activation is ReLU, ReLU6, leaky or parametric ReLU.

    Clients may normalise by their batch: where they send its statistics, the gradient that a frozen
    BatchNorm would give follows, see `convolutional_ends.batch_normalised`.

    Attributes:
        volleys: of alternating projections, at most; they end with the first that finds few.
        sparse_volleys: of minimisations that end at sparse vectors, at most.
        reflections: iterations of the relaxed reflections, at most.
        quiet: iterations without a new position after which they end.
        reflected_at_once: runs of the relaxed reflections.
    """

    title = "Convolution demixing"
    reference = (
        "none for the attack; its search: Elser, Rankenburg, Thibault 2007, Searching with "
        "iterated maps (PNAS), and Chartrand, Yin 2008, Iteratively reweighted algorithms for "
        "compressive sensing (ICASSP); its fallback: Yang, Wang, Li 2022, Individual Property "
        "Inference over Collaborative Learning in Deep Feature Space (ICME)"
    )
    example_setup: ClassVar[Mapping[str, Any]] = {
        "model": "mobilefacenet",
        "model_parameters": {"input_size": 32, "hidden_layers": 0},
        "dataset_parameters": {"individuals": 200},
        "main_task": "hat",
        "rounds": 0,
    }
    example_parameters: ClassVar = {"budget": 2, "reflections": 200}
    optional_knowledge: ClassVar = Knowledge.STATISTICS

    volleys: Annotated[int, Field(ge=0)] = 100
    sparse_volleys: Annotated[int, Field(ge=0)] = 50
    reflections: Annotated[int, Field(ge=0)] = 4_000
    quiet: Annotated[int, Field(gt=0)] = 1_000
    reflected_at_once: Annotated[int, Field(gt=0)] = 64

    def recovered(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[RecoveredIndividuals]:
        """Demix the last convolution's gradient of each batch."""
        assert server.model is not None and server.auxiliary is not None
        refuse_batch_statistics(server, self.name)
        refuse_other_losses(server.model, self.name)
        images = server.auxiliary.images[:AUXILIARY_IMAGES]
        end = self.end(server.model, images)
        norm = self._batch_norm(server, end, observations)
        # Where BatchNorm normalises by the batch, D_aux's depend on its size.
        by_size = server.mode == "train"
        starts_of = {
            size: end.preactivations(server.model, images, size)
            for size in {each.batch_size if by_size else None for each in observations}
        }
        results = []
        for number, observation in enumerate(observations):
            starts = starts_of[observation.batch_size if by_size else None]
            variance = None
            if norm is not None:
                assert observation.statistics is not None
                variance = observation.statistics[norm][1]
            results.append(self._recovered(end, observation, starts, variance))
            progress((number + 1) / len(observations))
        return results

    def _batch_norm(
        self, server: Server, end: ConvolutionalEnd, observations: Sequence[Observation]
    ) -> str | None:
        """Return the BatchNorm after the convolution if it normalises by the batch.

        Raises:
            UsageError: its statistics are not known, or do not suffice for this end.
        """
        assert server.model is not None
        layers = batch_norm_layers(server.model)
        name = next((name for name, each in layers.items() if each is end.convolution.norm), None)
        if server.mode == "eval" or (name is None and not (layers and end.has_shortcut)):
            return None
        if not can_be_frozen(end):
            raise UsageError(
                f"attack {self.name!r} needs, where clients' BatchNorm normalises by the batch, a "
                f"last convolution without padding, without a shortcut, and with a factor that "
                f"clients train; take another attack, such as feature"
            )
        assert name is not None
        if any(name not in (each.statistics or {}) for each in observations):
            raise UsageError(
                f"attack {self.name!r} needs the statistics of clients' batches where the last "
                f"BatchNorm normalises by the batch; grant statistics, in an audit capture weights "
                f"with their running statistics, or take another attack, such as feature"
            )
        return name

    def end(self, model: SharedModel, examples: torch.Tensor) -> ConvolutionalEnd:
        """Return the part of a model that is demixed.

        Args:
            examples: two or more of its inputs.

        Raises:
            UsageError: it has none; names what was found and what would be needed.
        """
        return end_of(model, examples, CONVOLUTION, ConvolutionalEnd, self.name)

    def _recovered(
        self,
        end: ConvolutionalEnd,
        observation: Observation,
        starts: torch.Tensor,
        variance: torch.Tensor | None,
    ) -> RecoveredIndividuals:
        """Return the individuals of one batch; none where not all positions are found.

        Args:
            starts: z of positions of D_aux, shape (m, n · P).
            variance: before the last BatchNorm where it normalises by the batch, shape (m,).
        """
        assert observation.update is not None
        if not has_finite_update(observation):
            return no_individuals(end)
        update, size, sent = observation.update, observation.batch_size, None
        if variance is not None:
            completed = as_frozen(end, update, variance, size)
            if completed is None:
                return no_individuals(end)
            end, sent = completed.end, completed.gradient
        gradient = position_gradient(end, update, size, starts, sent)
        if not gradient.is_searchable:
            return no_individuals(end)
        budget = PositionBudget(
            volleys=self.volleys,
            sparse_volleys=self.sparse_volleys,
            reflections=self.reflections,
            quiet=self.quiet,
            runs=self.reflected_at_once,
        )
        found = found_columns(gradient, starts, budget, observation.seed)
        return recovered_individuals(gradient, found)


AUXILIARY_IMAGES = 128
"""Images of D_aux at whose positions searches start."""
