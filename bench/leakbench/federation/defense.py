"""Base class of defenses, which change how a client computes its update or what it sends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

from leakbench.federation.client import Compute, Update

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


class Stage(IntEnum):
    """When a defense is applied: earlier stages come first."""

    GRADIENT = 0
    """Changes how a gradient is computed."""
    STEPS = 1
    """Changes how gradients are combined into the update."""
    UPDATE = 2
    """Changes the update before it is sent."""
    AGGREGATE = 3
    """Changes what the server sees of several clients' updates."""


class Defense(ABC):
    """A registered defense. Subclasses are frozen dataclasses: their fields are its parameters.

    An adversary that knows the defense (`Knowledge.DEFENSE`) gets this object: it can apply
    `protect` to its own individuals, and weigh an update's entries by `reliability`.

    Attributes:
        name: set by the registry.
        reference: the publication it comes from.
        stage: when it is applied.
        example_parameters: parameters for the conformance suite.
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    stage: ClassVar[Stage] = Stage.UPDATE
    example_parameters: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def protect(self, compute: Compute) -> Compute:
        """Return how a client computes its update under this defense.

        Args:
            compute: computes the update without this defense.
        """

    @property
    def clients(self) -> int:
        """Number of clients whose updates the server sees as one."""
        return 1

    def client_part(self) -> Defense | None:
        """Return the part of the defense that a single client applies; None if there is none."""
        return self

    @property
    def uses(self) -> int:
        """Number of gradients in which each individual of a client's batch is used."""
        return 1

    def reliability(self, update: Update, individuals: int) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return reliability weights of a sent update's entries, for an adaptive adversary.

        Args:
            update: as it was sent.
            individuals: number of individuals that contribute to it.

        Returns:
            Parameter name → weights in [0, 1] that broadcast to the parameter's shape. For sent
            entries: the share of their energy that is not noise. For withheld entries: the weight
            of the zero in their place. Parameters that are left out have weight 1.
        """
        return {}

    def rescale(self, update: Update, individuals: int) -> tuple[Update, int]:
        """Return update and number of individuals as input of earlier defenses' `reliability`.

        If several updates are combined, each with independent noise, the sent update has more or
        less noise than one of them. It is scaled so that its noise is that of one update.
        """
        return update, individuals

    def surrogate_of_individuals(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return each individual's gradient as clients change it before averaging.

        As `surrogate`, but for R individuals: shape (R, *parameter's).
        """
        return gradients

    def surrogate(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what clients would send for these gradients, differentiably, without randomness.

        Args:
            gradients: of R runs, shape (R, *parameter's).

        Returns:
            The same mapping object if gradients are sent unchanged.
        """
        return gradients

    def local_epochs(self, individuals: int) -> Sequence[Sequence[int]]:
        """Return the sizes of the mini-batches of each local epoch.

        A client takes one SGD step per mini-batch, and its update is the sum of their gradients.

        Args:
            individuals: number of individuals in the client's batch.
        """
        return ((individuals,),)

    def epsilon(
        self,
        sampled: float,  # noqa: ARG002
        rounds: int,  # noqa: ARG002
        delta: float,  # noqa: ARG002
        uses: int = 1,  # noqa: ARG002
    ) -> float | None:
        """Return ε of training with (ε, δ)-differential privacy; None if there is no guarantee.

        Args:
            sampled: share of a client's individuals in a round's batch.
            rounds: number of training rounds.
            uses: number of gradients in which each of them is used in a round.
        """
        return None
