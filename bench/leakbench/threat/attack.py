"""What an attack is, and what it answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from leakbench.base.errors import UsageError
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


class NotCompiled(RuntimeWarning):
    """Steps that should have been compiled could not be, and run uncompiled."""


@dataclass(frozen=True)
class AttackResult:
    """An attack's answer for one victim batch, its individuals in any order.

    Attributes:
        scores: property → probability of presence in [0, 1], shape (B,) each.
        features: reconstructed E(X), shape (B, d); None for an attack that reconstructs none. Its
            answer then is the same for all individuals of the batch, unless it saw `outputs`: then
            row i answers for the i-th of them.
        images: reconstructed images, shape (B, 3, size, size), if any; [0, 1] is the pixel range,
            which an attack without projection leaves.
        labels: main-task classes that the attack believes in, shape (B,), if any.
        certified: whose feature the attack claims to have exactly, shape (B,), if it can tell.
        membership: of each candidate, the higher the likelier in the batch, shape (n,).
        loss: final distance between the dummies' gradient and the update, if it has one.
        steps: evaluations of the update's gradient that were spent.
        restarts: how often a run that had diverged was started afresh.
        diverged: whether the attack itself reports failure.
    """

    scores: Mapping[str, Tensor]
    features: Tensor | None = None
    images: Tensor | None = None
    labels: Tensor | None = None
    certified: Tensor | None = None
    membership: Tensor | None = None
    loss: float | None = None
    steps: int = 0
    restarts: int = 0
    diverged: bool = False


Progress = Callable[[float], None]
"""Called by an attack with the share of its work that is done, in [0, 1]."""


def part_of(progress: Progress, number: int, total: int) -> Progress:
    """Return the progress of part `number` of `total` equal parts of a piece of work."""
    return lambda share: progress((number + share) / total)


class Attack(ABC):
    """An attack or control. Subclasses are frozen dataclasses: their fields are its parameters.

    Attributes:
        name: set by the registry.
        version: raised whenever the numbers that the attack gives may change; part of a cell's key.
        title: its column in a table.
        reference: the publication it implements.
        note: what the reader of its column must know besides, printed under each table.
        control: whether it is a control, not an attack.
        optional_knowledge: what else it makes use of where its cell grants it.
        largest_batch: the largest B it is defined for, if there is such a limit.
        presets: name → parameters, such as those of its paper.
        example_setup: fields of a setup in which it can be run, where the default ones do not do.
        example_parameters: that make a run of it a matter of a second, for the conformance suite.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    title: ClassVar[str]
    reference: ClassVar[str]
    note: ClassVar[str] = ""
    control: ClassVar[bool] = False
    optional_knowledge: ClassVar[Knowledge] = Knowledge.NOTHING
    largest_batch: ClassVar[int | None] = None
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    example_setup: ClassVar[Mapping[str, Any]] = {}
    example_parameters: ClassVar[Mapping[str, Any]] = {}

    @property
    @abstractmethod
    def required_knowledge(self) -> Knowledge:
        """What a cell must grant for the attack to run with these parameters."""

    @abstractmethod
    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Infer the properties of every individual of every observed batch.

        The answer for one observation depends on nothing but it and the server's knowledge: the
        others are handed over together so that the work can be vectorised.
        """

    def deploy(self, server: Server, progress: Progress) -> Mapping[str, nn.Module]:  # noqa: ARG002
        """Return the models that the server puts in the shared model's place, by name.

        Asked for before any victim is seen, of an attack that needs `outputs`. A model maps images
        (n, 3, size, size) in [0, 1] to K numbers each, the classes' scores.
        """
        return {}

    def work(self, batch_size: int) -> float:  # noqa: ARG002
        """Return the expected cost per individual in gradient evaluations (for time estimates)."""
        return 1.0


def knowledge_used(attack: Attack, granted: Knowledge) -> Knowledge:
    """Return the knowledge that an attack gets: what it declares, not all that is granted.

    Otherwise it could use what the tables, which print this, say that it does not know.
    """
    return attack.required_knowledge | (attack.optional_knowledge & granted)


def check_batch_size(attack: Attack, batch_size: int) -> None:
    """Refuse a batch that the attack is not defined for.

    Raises:
        UsageError: names the largest.
    """
    if attack.largest_batch is not None and batch_size > attack.largest_batch:
        raise UsageError(
            f"attack {attack.name!r} is defined up to B = {attack.largest_batch}, not for "
            f"B = {batch_size}; give it a [[group]] of its own with that batch_size"
        )


def check_grant(attack: Attack, granted: Knowledge) -> None:
    """Refuse an attack that needs to know more than the cell grants.

    Raises:
        UsageError: names what is missing.
    """
    missing = attack.required_knowledge & ~granted
    if missing:
        raise UsageError(
            f"attack {attack.name!r} needs to know {' and '.join(missing.names())}, which this "
            f"cell does not grant (it grants {', '.join(granted.names()) or 'nothing'}); "
            f"add it to `grant` or choose parameters that need less"
        )
