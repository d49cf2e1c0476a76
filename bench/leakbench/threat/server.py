"""The server's knowledge before any update arrives: shared model, D_aux, property model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
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
    """D_aux: images of individuals that are neither victims nor in any client's data.

    Attributes:
        images: in [0, 1], shape (n, 3, size, size).
        labels: main-task classes, shape (n,); −1 if the main task is identity, or if D_aux comes
            from a data set that lacks the main task's attributes.
        properties: property → presence, shape (n,) each.
        identities: number of the person or object shown, shape (n,).
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
            # While fewer are taken than there are, one is not: no look at thousands of counts.
            least = 0 if len(taken) < len(first) else min(taken[row] for row in first)
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
    """D_aux in the feature space of the attacked shared model.

    Attributes:
        features: E(images of D_aux), shape (n, d).
        property_model: f_p, trained on `features` and the properties of D_aux.
        by_batch: whether the features are those of batches like a client's, by which BatchNorm
            normalises; otherwise by its running statistics.
    """

    features: Tensor
    property_model: PropertyModel
    by_batch: bool = False


@dataclass(frozen=True)
class Server:
    """What the honest-but-curious server knows before any update arrives.

    Attributes:
        classes: number K of main-task classes.
        image_shape: (channels, height, width) of the model's input; in an audit of a model that
            takes rows of a table or token ids, their number.
        properties: the properties to infer.
        mode: in which clients run the model for their update; `train` normalises by the batch.
        model: the shared model in the attacked round, if granted.
        auxiliary: D_aux, if granted.
        feature_space: features of D_aux and f_p, if model and D_aux are granted.
        learning_rate: η, which the server sets.
        defense: what clients do for an update: their defense, if it is granted, with the protocol.
            If None, updates are taken for gradients.
        protocol: the part of it that every server knows: the local steps of federated averaging;
            None in synchronous SGD.
        compiling: whether attacks compile their steps; a computing resource, not knowledge.
        precision: in which attacks run the model; likewise.
    """

    classes: int
    image_shape: tuple[int, ...]
    properties: tuple[str, ...]
    mode: Mode = "eval"
    model: SharedModel | None = None
    auxiliary: Auxiliary | None = None
    feature_space: FeatureSpace | None = None
    learning_rate: float = 0.1
    defense: Defense | None = None
    protocol: Defense | None = None
    compiling: Compiling = "auto"
    precision: Precision = "float32"


def granted(server: Server, knowledge: Knowledge) -> Server:
    """Return the server with what it is not granted left out."""
    features = Knowledge.MODEL | Knowledge.AUXILIARY
    return replace(
        server,
        model=server.model if Knowledge.MODEL in knowledge else None,
        auxiliary=server.auxiliary if Knowledge.AUXILIARY in knowledge else None,
        feature_space=server.feature_space if features in knowledge else None,
        defense=server.defense if Knowledge.DEFENSE in knowledge else server.protocol,
    )
