"""The base class of attacks, and the type of their results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from leakbench.base.errors import UsageError
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


class NotCompiled(RuntimeWarning):
    """Warns that optimisation steps could not be compiled and run uncompiled."""


@dataclass(frozen=True)
class AttackResult:
    """An attack's result for one victim batch, its individuals in any order.

    Attributes:
        scores: property → probability of presence in [0, 1], shape (B,) each.
        features: reconstructed E(X), shape (B, d); None if the attack reconstructs none. Then all
            individuals of the batch must have the same scores, unless the attack saw `outputs`:
            then row i belongs to the i-th of them.
        images: reconstructed images, shape (B, 3, size, size), if any; the pixel range is [0, 1],
            which attacks without projection may exceed.
        labels: inferred main-task classes, shape (B,), if any.
        certified: whether the attack certifies a row of `features` as exact, shape (B,), if it
            can.
        claimed: whether the attack takes a row of `features` for an individual's own, certified or
            not, shape (B,), if it tells.
        membership: score of each candidate, higher for likelier members, shape (n,).
        loss: final distance between the dummies' gradient and the update, if it has one.
        steps: number of gradient evaluations used.
        restarts: number of restarts after a run diverged.
        compiled: whether its steps ran compiled; None where it has none that could.
        diverged: whether the attack reports that it failed.
    """

    scores: Mapping[str, Tensor]
    features: Tensor | None = None
    images: Tensor | None = None
    labels: Tensor | None = None
    certified: Tensor | None = None
    claimed: Tensor | None = None
    membership: Tensor | None = None
    loss: float | None = None
    steps: int = 0
    restarts: int = 0
    compiled: bool | None = None
    diverged: bool = False


Progress = Callable[[float], None]
"""Callback for the completed share of an attack's work, in [0, 1]."""


def part_of(progress: Progress, number: int, total: int) -> Progress:
    """Return the progress callback of part `number` of `total` equal parts of the work."""
    return lambda share: progress((number + share) / total)


class Attack(ABC):
    """An attack or control. Subclasses are frozen dataclasses: their fields are its parameters.

    Attributes:
        name: set by the registry.
        version: must be raised whenever the attack's numbers may change; part of a cell's key.
        title: heading of its column in tables.
        reference: the publication it implements.
        note: information for readers of its column, printed under each table.
        control: whether it is a control and not an attack: a `baseline`, above which an attack with
            as much knowledge has to be before it has learnt anything, or an `upper bound`.
        is_label_baseline: whether it is a baseline that answers with all that main-task labels
            tell. Attacks that know labels are compared only where there is one.
        optional_knowledge: knowledge that it uses in addition if its cell grants it.
        least_runs: how often a cell is measured at least, with seeds of its own each: for attacks
            that cost nothing and of which one run varies much.
        is_random: whether the result depends on the observation's seed. If not, several seeds would
            give the same numbers, and it runs once on each training of the shared model.
        largest_batch: the largest B for which it is defined; None if there is no limit.
        reconstructs_features: whether its results hold a feature for each individual.
        presets: name → parameters, such as those of the paper.
        example_setup: fields of a setup for the conformance suite, if the default ones do not fit.
        example_parameters: parameters for the conformance suite, with which it runs in a second.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    title: ClassVar[str]
    reference: ClassVar[str]
    note: ClassVar[str] = ""
    control: ClassVar[Literal["baseline", "upper bound"] | None] = None
    is_label_baseline: ClassVar[bool] = False
    optional_knowledge: ClassVar[Knowledge] = Knowledge.NOTHING
    least_runs: ClassVar[int] = 1
    is_random: ClassVar[bool] = True
    largest_batch: ClassVar[int | None] = None
    reconstructs_features: ClassVar[bool] = True
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    example_setup: ClassVar[Mapping[str, Any]] = {}
    example_parameters: ClassVar[Mapping[str, Any]] = {}

    @cached_property
    def _of_grants(self) -> dict[Knowledge, tuple[Knowledge, Knowledge]]:
        """See `_of_grant`; kept, since thousands of cells share an attack, and flags are slow."""
        return {}

    @property
    @abstractmethod
    def required_knowledge(self) -> Knowledge:
        """What a cell must grant for the attack to run with these parameters."""

    @abstractmethod
    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Infer the properties of every individual of every observed batch.

        The result for an observation must depend only on it and the server's knowledge; many
        observations are passed together so that the work can be vectorised.
        """

    def deploy(self, server: Server, progress: Progress) -> Mapping[str, nn.Module]:  # noqa: ARG002
        """Return the models that the server deploys in place of the shared model, by name.

        Called before any victim is seen, for attacks that require `outputs`. A model maps images
        (n, 3, size, size) in [0, 1] to class scores (n, K).
        """
        return {}

    def work(self, batch_size: int) -> float:  # noqa: ARG002
        """Return the expected cost per individual in gradient evaluations (for time estimates)."""
        return 1.0


def knowledge_used(attack: Attack, granted: Knowledge) -> Knowledge:
    """Return the knowledge that an attack gets: what it declares, not all that is granted.

    Otherwise it could use what the tables, which print this, say that it does not know.
    """
    return _of_grant(attack, granted)[0]


def _of_grant(attack: Attack, granted: Knowledge) -> tuple[Knowledge, Knowledge]:
    """Return what an attack gets to know under a grant, and what it lacks."""
    known = attack._of_grants.get(granted)
    if known is None:
        required = attack.required_knowledge
        known = required | (attack.optional_knowledge & granted), required & ~granted
        attack._of_grants[granted] = known
    return known


def check_batch_size(attack: Attack, batch_size: int) -> None:
    """Refuse a batch size for which the attack is not defined.

    Raises:
        UsageError: names the largest batch size.
    """
    if attack.largest_batch is not None and batch_size > attack.largest_batch:
        raise UsageError(
            f"attack {attack.name!r} is defined up to B = {attack.largest_batch}, not for "
            f"B = {batch_size}; give it a [[group]] of its own with that batch_size"
        )


def check_grant(attack: Attack, granted: Knowledge) -> None:
    """Refuse an attack that requires more knowledge than the cell grants.

    Raises:
        UsageError: names the missing knowledge.
    """
    missing = _of_grant(attack, granted)[1]
    if missing:
        raise UsageError(
            f"attack {attack.name!r} needs to know {' and '.join(missing.names())}, which this "
            f"cell does not grant (it grants {', '.join(granted.names()) or 'nothing'}); "
            f"add it to `grant` or choose parameters that need less"
        )
