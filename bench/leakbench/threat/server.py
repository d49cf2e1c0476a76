"""The server as adversary: what it knows before any update arrives.

The harness builds a `GroundTruth` for every victim batch and derives from it an `Observation` that
holds only what the cell's `Knowledge` grants. An attack receives `Server` and `Observation`s and
returns `AttackResult`s; no signature on its side mentions `GroundTruth`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from leakbench.base.choices import Compiling, Mode, Precision
from leakbench.federation.shared_model import SharedModel
from leakbench.threat.knowledge import Knowledge

if TYPE_CHECKING:
    from leakbench.federation.defense import Defense


@dataclass(frozen=True)
class Auxiliary:
    """D_aux: images of individuals who are neither victims nor in any client's data.

    Attributes:
        images: in [0, 1], shape (n, 3, size, size).
        labels: main-task classes, shape (n,); −1 where the main task is identity, or where D_aux
            comes from a data set that lacks the main task's attributes.
        properties: property → presence, shape (n,) each.
        identities: of the person or object shown, shape (n,); equal numbers mean the same person
            or object.
    """

    images: Tensor
    labels: Tensor
    properties: Mapping[str, Tensor]
    identities: Tensor

    def draw(self, labels: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
        """Return rows of random individuals, shape (count,).

        They are drawn without replacement. Where all individuals to draw from are taken, those that
        were taken least often are drawn again, in a new random order.

        Args:
            labels: draw for each of these an individual that has it, shape (count,), or any
                individual where none has; None for any individuals.
            generator: a CPU generator.
        """
        order = torch.randperm(len(self.labels), generator=generator)
        if labels is None:
            orders = [order]
            while sum(map(len, orders)) < count:
                orders.append(torch.randperm(len(order), generator=generator))
            return torch.cat(orders)[:count].to(self.labels.device)
        shuffled = self.labels.cpu()[order]
        taken: Counter[int] = Counter()
        orders_of: dict[tuple[int, int], list[int]] = {}
        rows: list[int] = []
        for label in labels.tolist():
            if (label, 0) not in orders_of:
                orders_of[label, 0] = order[shuffled == label].tolist() or order.tolist()
            first = orders_of[label, 0]
            least = min(taken[row] for row in first)
            if (label, least) not in orders_of:
                again = torch.randperm(len(first), generator=generator).tolist()
                orders_of[label, least] = [first[place] for place in again]
            rows.append(next(row for row in orders_of[label, least] if taken[row] == least))
            taken[rows[-1]] += 1
        return torch.tensor(rows, device=self.labels.device)


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
        defense: the clients', if granted; without it, updates look like gradients.
        compiling: whether an attack compiles its steps; a setting of the computation, no knowledge.
        precision: of the model's computations in an attack; likewise.
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


def granted(server: Server, knowledge: Knowledge, mode: Mode = "eval") -> Server:
    """Return the part of the server's knowledge that is granted; the clients' mode is public."""
    return Server(
        classes=server.classes,
        image_shape=server.image_shape,
        properties=server.properties,
        mode=mode,
        model=server.model if Knowledge.MODEL in knowledge else None,
        auxiliary=server.auxiliary if Knowledge.AUXILIARY in knowledge else None,
        feature_space=server.feature_space
        if Knowledge.MODEL | Knowledge.AUXILIARY in knowledge
        else None,
    )
