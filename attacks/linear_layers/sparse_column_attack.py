"""What attacks share that find the sparse columns of a hidden ReLU layer's gradient."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leakbench.attacks.linear_layers.activations import Rectifier
from leakbench.attacks.linear_layers.auxiliary_fallback import auxiliary_features, auxiliary_result
from leakbench.attacks.linear_layers.certifying_attack import refuse_batch_statistics
from leakbench.attacks.linear_layers.head import Head, head_of
from leakbench.attacks.linear_layers.sparse_columns import Separation, SparseColumns
from leakbench.base.errors import UsageError
from leakbench.threat.attack import Attack, AttackResult, Progress, part_of
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@dataclass(frozen=True, kw_only=True)
class SparseColumnAttack(Attack):
    """Finds a batch's features exactly where the split is before a hidden ReLU layer.

    A batch is certified if its features activate exactly the units that its columns imply. Labels
    are not used.
    """

    note = (
        "a batch is certified as a whole or not at all; where it does not find as many matching "
        "columns as individuals, it answers with random individuals of D_aux, as the blind control"
    )

    @property
    @abstractmethod
    def proposals(self) -> int:
        """Candidates for columns that are made of each victim batch, at most."""

    @property
    @abstractmethod
    def proposals_at_once(self) -> int:
        """Candidates that are made side by side."""

    @abstractmethod
    def propose(self, columns: SparseColumns, count: int, generator: torch.Generator) -> Tensor:
        """Return so many candidates for columns of Q, or fewer, shape (≤ count, b).

        Args:
            generator: a CPU generator.
        """

    @property
    def required_knowledge(self) -> Knowledge:
        """The model and the update, and D_aux for f_p and for individuals that are not found."""
        return Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY

    def check_head(self, head: Head) -> None:
        """Refuse a classifier without a ReLU after its first layer.

        Raises:
            UsageError: names what to use.
        """
        if head.first.activation != Rectifier():
            raise UsageError(
                f"attack {self.name!r} needs a classifier whose first layer is followed by ReLU; "
                f"take newton_demixing for other activations and for an output layer alone"
            )

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Search each batch by itself."""
        assert server.model is not None
        refuse_batch_statistics(server, self.name)
        head = head_of(server.model, self.name)
        self.check_head(head)
        answers = []
        for number, observation in enumerate(observations):
            part = part_of(progress, number, len(observations))
            answers.append(self._answer(server, head, observation, part))
            part(1.0)
        return answers

    def _answer(
        self, server: Server, head: Head, observation: Observation, progress: Progress
    ) -> AttackResult:
        assert server.feature_space is not None and observation.update is not None
        if not bool(head.first.gradient(observation.update).isfinite().all()):
            return auxiliary_result(server, observation, certifies=True)
        batch = self._search(head, observation, progress)
        size = observation.batch_size
        features = server.feature_space.features[:0]
        if batch is not None:
            features = torch.cat([features, batch.features.to(features)])
        missing = size - len(features)
        if missing:
            features = torch.cat([features, auxiliary_features(server, observation, missing)])
        # Fewer columns than individuals may be those of mixtures, which activate all units of
        # theirs.
        exact = batch is not None and batch.exact and not missing
        return AttackResult(
            scores=server.feature_space.property_model(features),
            features=features,
            certified=torch.full((size,), exact, device=features.device),
            diverged=batch is None,
        )

    def _search(
        self, head: Head, observation: Observation, progress: Progress
    ) -> Separation | None:
        """Return the batch if enough independent columns are found and they match; else None."""
        assert observation.update is not None
        columns = SparseColumns(head, observation.update, observation.batch_size)
        if not columns.tells_apart:
            return None
        generator = torch.Generator().manual_seed(observation.seed)
        batch = columns.search(
            lambda count: self.propose(columns, count, generator),
            self.proposals,
            self.proposals_at_once,
            progress,
        )
        if (
            batch is None
            or batch.score < FITTING
            or not bool(batch.features.float().isfinite().all())
        ):
            return None
        return batch


FITTING = 0.65
"""Score below which features are further from the individuals than those of D_aux; the score of
random columns is 0.5. Measured on CelebA, 256 hidden units."""
