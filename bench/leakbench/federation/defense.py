"""What a defense is: a change to how a client computes its update, or to what it sends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from enum import IntEnum
from typing import TYPE_CHECKING, Any, ClassVar

from leakbench.federation.client import Compute, Update

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import Tensor


class Stage(IntEnum):
    """Where a defense comes in; those of an earlier stage come first."""

    GRADIENT = 0
    """How one gradient is computed."""
    STEPS = 1
    """How gradients become the update."""
    UPDATE = 2
    """What is sent of the update."""
    AGGREGATE = 3
    """What the server sees of what several clients send."""


class Defense(ABC):
    """A registered defense. Subclasses are frozen dataclasses: their fields are its parameters.

    An adversary that knows the defense (`Knowledge.DEFENSE`) holds this very object: it can run
    `protect` on individuals of its own, and ask `reliability` what an update is worth.

    Attributes:
        name: set by the registry.
        reference: the publication it comes from.
        stage: where it comes in.
        example_parameters: with which the conformance suite tries it.
    """

    name: ClassVar[str]
    reference: ClassVar[str]
    stage: ClassVar[Stage] = Stage.UPDATE
    example_parameters: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def protect(self, compute: Compute) -> Compute:
        """Return how a client computes its update under this defense.

        Args:
            compute: how it would without.
        """

    @property
    def clients(self) -> int:
        """How many clients' batches the server sees as one."""
        return 1

    def client_part(self) -> Defense | None:
        """Return the part of the defense that a client does by itself; None for none."""
        return self

    @property
    def uses(self) -> int:
        """How often each individual of a client's batch enters a gradient."""
        return 1

    def reliability(self, update: Update, individuals: int) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return how far entries of a sent update are to be believed, for who knows the defense.

        Args:
            update: as it was sent.
            individuals: how many stand behind it.

        Returns:
            Parameter name → factors in [0, 1] that broadcast to the parameter's shape: of what was
            sent the share of its energy that is not noise; of an entry that was withheld, how far
            the zero in its place may be believed. What is left out is believed.
        """
        return {}

    def rescale(self, update: Update, individuals: int) -> tuple[Update, int]:
        """Return the update and the number of individuals by which defenses before this one judge.

        Of noise that several updates hold, each their own, more or less is left in what is sent;
        the update is scaled so that the noise in it is what one of them holds.
        """
        return update, individuals

    def surrogate_of_individuals(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what clients take of each individual's gradient, before they average.

        As `surrogate`, but of R individuals: shape (R, *parameter's).
        """
        return gradients

    def surrogate(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what clients would send for these gradients, differentiably; without draws.

        Args:
            gradients: of R runs, shape (R, *parameter's).

        Returns:
            The very same mapping where gradients are sent as they are.
        """
        return gradients

    def local_epochs(self, individuals: int) -> Sequence[Sequence[int]]:
        """Return the sizes of the mini-batches of each epoch that leads a client to its update.

        In each it takes one step of SGD; the update is the sum of their gradients, as that of a
        single batch is its gradient.

        Args:
            individuals: in the client's batch.
        """
        return ((individuals,),)

    def epsilon(
        self,
        sampled: float,  # noqa: ARG002
        rounds: int,  # noqa: ARG002
        delta: float,  # noqa: ARG002
        uses: int = 1,  # noqa: ARG002
    ) -> float | None:
        """Return ε of the (ε, δ)-differential privacy of training; None where there is none.

        Args:
            sampled: share of a client's individuals that are in a round's batch.
            rounds: of training.
            uses: how often each of them enters a gradient in a round.
        """
        return None
