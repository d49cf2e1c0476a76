"""The threat model as types: what the adversary knows, sees and answers, and what it never sees.

The harness builds a `Truth` for every victim batch and derives from it an `Observation` that holds
only what the cell's `Knowledge` grants. An attack receives `Server` and `Observation`s and returns
`Inference`s; no signature on its side mentions `Truth`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Flag, auto
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.defense import Defense
    from bench.models import SharedModel


Mode = Literal["eval", "train"]
"""How clients run the model when they compute an update: BatchNorm layers normalise by their
running statistics (`eval`) or by the batch's own (`train`)."""

Compiling = Literal["auto", "on", "off"]
"""Whether an attack compiles its steps; `auto` where that takes less time than it saves."""

PropertyModelKind = Literal["logistic", "validated"]
"""What f_p is: a logistic regression, or what cross-validation in D_aux chooses among linear models
and networks with a hidden layer, trained on mirrored images too and calibrated."""

Precision = Literal["float32", "tf32", "bfloat16"]
"""In which the adversary's copy of the model computes; TF32 on CUDA only."""


class NotCompiled(RuntimeWarning):
    """Steps that should have been compiled could not be, and run uncompiled."""


class Knowledge(Flag):
    """What an adversary may know. The batch size is always known."""

    NOTHING = 0
    MODEL = auto()
    """The shared model's weights in the attacked round."""
    UPDATE = auto()
    """The victim's update, as the defense let it pass."""
    LABELS = auto()
    """The main-task labels of the victim batch, as a multiset."""
    AUXILIARY = auto()
    """D_aux: images of other individuals, labelled with properties and main task."""
    STATISTICS = auto()
    """Mean and variance of the victim batch before every BatchNorm layer: what clients give away
    who send their running statistics along with the update."""
    OUTPUTS = auto()
    """What models that the server itself trained and deployed answer on each victim's image. Each
    individual is served alone, so that the server knows whose output is whose."""
    DEFENSE = auto()
    """The clients' defense with its parameters, but nothing that they draw."""
    CANDIDATES = auto()
    """Images of people of whom it asks whether they are in the batch: as many who are as others."""
    FEATURES = auto()
    """The victims' true deep features. No server has them: only the `oracle` control."""

    @classmethod
    def parse(cls, names: Iterable[str]) -> Knowledge:
        """Return the union of the named kinds of knowledge.

        Raises:
            UsageError: a name is unknown.
        """
        knowledge = cls.NOTHING
        for name in names:
            if name.upper() not in cls.__members__ or name.upper() == "NOTHING":
                raise UsageError(
                    f"unknown knowledge {name!r}; choose from {', '.join((~cls.NOTHING).names())}"
                )
            knowledge |= cls[name.upper()]
        return knowledge

    def names(self) -> list[str]:
        """Return the names of the kinds of knowledge held, in order of definition."""
        return [str(member.name).lower() for member in Knowledge if member in self]


@dataclass(frozen=True)
class Truth:
    """What really was in one victim batch of B individuals; for scoring only.

    Attributes:
        images: in [0, 1], shape (B, 3, size, size).
        labels: main-task classes, shape (B,).
        features: E(X), shape (B, d).
        properties: property → presence, shape (B,) each.
        identities: who is shown, shape (B,).
    """

    images: Tensor
    labels: Tensor
    features: Tensor
    properties: Mapping[str, Tensor]
    identities: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Observation:
    """What the adversary sees of one victim batch; a field it was not granted is None.

    Attributes:
        batch_size: number of individuals B.
        seed: for the attack's own randomness.
        update: parameter name → gradient of the mean cross-entropy over the batch, or what the
            clients' defense made of it.
        labels: main-task classes in ascending order, shape (B,): which individual has which label
            is not known.
        statistics: BatchNorm layer → mean and variance of its input over the batch, shape
            (channels,) each.
        outputs: deployed model → its output for each individual, shape (B, K) each; row i is the
            i-th individual's.
        candidates: images of people who may be in the batch, shape (n, 3, size, size).
        features: true E(X), shape (B, d); for the `oracle` control.
    """

    batch_size: int
    seed: int
    update: Mapping[str, Tensor] | None = None
    labels: Tensor | None = None
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None = None
    outputs: Mapping[str, Tensor] | None = None
    candidates: Tensor | None = None
    features: Tensor | None = None


@dataclass(frozen=True)
class Auxiliary:
    """D_aux: images of individuals who are neither victims nor in any client's data.

    Attributes:
        images: in [0, 1], shape (n, 3, size, size).
        labels: main-task classes, shape (n,); −1 where the main task is identity, or where D_aux
            comes from a data set that lacks the main task's attributes.
        properties: property → presence, shape (n,) each.
        identities: who is shown, shape (n,); equal numbers mean the same person or object.
    """

    images: Tensor
    labels: Tensor
    properties: Mapping[str, Tensor]
    identities: Tensor

    def draw(self, labels: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
        """Return rows of random individuals, none twice while there are others, shape (count,).

        Args:
            labels: draw for each of these somebody who has it, shape (count,), or anybody where
                nobody has; None for anybody.
            generator: a CPU generator.
        """
        order = torch.randperm(len(self.labels), generator=generator)
        if labels is None:
            rounds = -(-count // len(order))
            return order.repeat(rounds)[:count].to(self.labels.device)
        shuffled = self.labels.cpu()[order]
        taken: list[int] = []
        for label in labels.tolist():
            fitting = order[shuffled == label].tolist() or order.tolist()
            taken.append(next((row for row in fitting if row not in taken), fitting[0]))
        return torch.tensor(taken, device=self.labels.device)


PropertyModel = Callable[[Tensor], dict[str, Tensor]]
"""f_p: deep features, shape (n, d), to each property's probability, shape (n,) each."""


@dataclass(frozen=True)
class FeatureSpace:
    """D_aux seen through the attacked shared model.

    Attributes:
        features: E(images of D_aux), shape (n, d).
        property_model: f_p, trained on `features` and the properties of D_aux.
    """

    features: Tensor
    property_model: PropertyModel


@dataclass(frozen=True)
class Server:
    """What the honest-but-curious server holds before any update arrives.

    Attributes:
        classes: number K of main-task classes.
        image_shape: (channels, height, width) of the model's input.
        properties: the properties it wants to infer.
        mode: how clients run the model for their update; `train` normalises by the batch.
        model: the shared model in the attacked round, if granted.
        auxiliary: D_aux, if granted.
        feature_space: D_aux through the model, if both are granted.
        learning_rate: η, which the server sets.
        defense: the clients', if granted; to whom it is not, updates look like gradients.
        compiling: whether an attack shall compile its steps; no knowledge, but the server's means.
        precision: in which an attack shall let the model compute; likewise.
    """

    classes: int
    image_shape: tuple[int, int, int]
    properties: tuple[str, ...]
    mode: Mode = "eval"
    model: SharedModel | None = None
    auxiliary: Auxiliary | None = None
    feature_space: FeatureSpace | None = None
    learning_rate: float = 0.1
    defense: Defense | None = None
    compiling: Compiling = "auto"
    precision: Precision = "float32"


@dataclass(frozen=True)
class Inference:
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
        adapts: what else it makes use of where its cell grants it.
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
    adapts: ClassVar[Knowledge] = Knowledge.NOTHING
    largest_batch: ClassVar[int | None] = None
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    example_setup: ClassVar[Mapping[str, Any]] = {}
    example_parameters: ClassVar[Mapping[str, Any]] = {}

    @property
    @abstractmethod
    def needs(self) -> Knowledge:
        """What a cell must grant for the attack to run with these parameters."""

    @abstractmethod
    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[Inference]:
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


def observe(
    truth: Truth,
    update: Mapping[str, Tensor],
    knowledge: Knowledge,
    seed: int,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    outputs: Mapping[str, Tensor] | None = None,
    candidates: Tensor | None = None,
) -> Observation:
    """Return what an adversary with `knowledge` sees of a victim batch, as copies."""
    known = statistics if Knowledge.STATISTICS in knowledge else None
    return Observation(
        batch_size=len(truth),
        seed=seed,
        update={name: value.clone() for name, value in update.items()}
        if Knowledge.UPDATE in knowledge
        else None,
        labels=truth.labels.sort().values.clone() if Knowledge.LABELS in knowledge else None,
        statistics=None
        if known is None
        else {layer: (mean.clone(), variance.clone()) for layer, (mean, variance) in known.items()},
        outputs=None
        if outputs is None or Knowledge.OUTPUTS not in knowledge
        else {name: output.clone() for name, output in outputs.items()},
        candidates=None
        if candidates is None or Knowledge.CANDIDATES not in knowledge
        else candidates.clone(),
        features=truth.features.clone() if Knowledge.FEATURES in knowledge else None,
    )


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
    missing = attack.needs & ~granted
    if missing:
        raise UsageError(
            f"attack {attack.name!r} needs to know {' and '.join(missing.names())}, which this "
            f"cell does not grant (it grants {', '.join(granted.names()) or 'nothing'}); "
            f"add it to `grant` or choose parameters that need less"
        )
