"""UL: does a batch contain the property? A random forest on updates that the server simulates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Annotated, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from leakbench.base.errors import UsageError
from leakbench.base.registry import register_attack
from leakbench.base.seeds import generator_for, seed_for
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import Client, Compute, gradient
from leakbench.threat.attack import Attack, AttackResult, Progress, part_of
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server

LARGE = 5_000
"""Entries of a dense matrix above which it is reduced, kernels of a convolution above which it is
left out."""

Forest = Callable[[NDArray[np.float32]], NDArray[np.float64]]
"""From the features of n updates, shape (n, d), to the probability of presence, shape (n,)."""


@register_attack("ul")
@dataclass(frozen=True, kw_only=True)
class UnintendedLeakage(Attack):
    """Answers by a random forest per property, trained on simulated updates (Melis et al. 2019).

    The server computes updates as a client does, on the attacked model and on batches of the
    victim's size. Half of them contain no individual with the property, the others some or only
    individuals with it, so that a score of ½ is the threshold of balanced accuracy. Labels are
    those of the individuals of D_aux; where the main task is identity, whose classes D_aux does not
    contain, random ones. There are no more batches of either kind than D_aux has individuals of it,
    so that at B = 1 no individual is seen twice: a forest is surer of individuals that it has seen
    often than of others, and a rare property would move the threshold.

    Where the cell grants the `defense`, the simulated clients have it too.

    Attributes:
        batches: simulated updates for each property, at most.
        shares: of individuals with the property in the batches that contain it, in equal parts; at
            least one individual has it.
    """

    reconstructs_features = False
    is_random = False
    title = "UL"
    reference = (
        "Melis, Song, De Cristofaro, Shmatikov 2019, Exploiting Unintended Feature Leakage in "
        "Collaborative Learning (IEEE S&P), arXiv 1805.04049"
    )
    note = (
        "decides whether a batch contains the property; above B = 1 that is the batch's answer, "
        "given to each of its members"
    )

    optional_knowledge: ClassVar = Knowledge.DEFENSE
    example_parameters: ClassVar = {"batches": 20}

    batches: Annotated[int, Field(ge=2)] = 1_000
    shares: Annotated[tuple[Annotated[float, Field(gt=0, le=1)], ...], Field(min_length=1)] = (
        1.0,
        0.8,
        0.6,
        0.4,
    )

    @property
    def required_knowledge(self) -> Knowledge:
        """The model, the update and D_aux."""
        return Knowledge.MODEL | Knowledge.UPDATE | Knowledge.AUXILIARY

    def work(self, batch_size: int) -> float:
        """The simulated updates of one property, as if shared by 256 individuals."""
        return self.batches * batch_size / 256

    def infer(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Give each member of a batch the forests' probabilities for the batch.

        Raises:
            UsageError: an update is not finite.
        """
        seen = []
        for observation in observations:
            assert observation.update is not None
            seen.append(update_features(observation.update))
            if not np.isfinite(seen[-1]).all():
                raise UsageError(
                    f"attack {self.name!r} cannot read an update that is not finite; attack an "
                    f"earlier round"
                )
        sizes = np.array([observation.batch_size for observation in observations])
        scores = {name: np.empty(len(sizes)) for name in server.properties}
        parts = [(name, size) for size in np.unique(sizes).tolist() for name in server.properties]
        for number, (name, size) in enumerate(parts):
            probability = self._fit(server, name, size, part_of(progress, number, len(parts)))
            alike = sizes == size
            rows = np.stack([row for row, chosen in zip(seen, alike, strict=True) if chosen])
            scores[name][alike] = probability(rows)
        progress(1.0)
        return [
            AttackResult(
                scores={
                    name: torch.full((observation.batch_size,), float(of_batches[number]))
                    for name, of_batches in scores.items()
                }
            )
            for number, observation in enumerate(observations)
        ]

    def _fit(self, server: Server, name: str, batch_size: int, progress: Progress) -> Forest:
        """Return the forest of one property, fitted to simulated updates of batches of one size.

        Its seed is the same for all observations: no answer depends on which others there are.
        """
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer, StandardScaler

        assert server.auxiliary is not None and server.model is not None
        model = in_mode(server.model, server.mode)
        auxiliary = server.auxiliary
        draw = generator_for("ul", name, batch_size)
        labels = _labels(auxiliary.labels, server.classes, draw)
        drawn = self._draw(auxiliary.properties[name].cpu(), batch_size, draw)
        compute: Compute = gradient
        clients_draw = generator_for("ul's clients", name, batch_size)
        if server.defense is not None:
            compute = server.defense.protect(gradient)
            # Individuals with the property come first in `drawn`; in a client's batch the order is
            # random.
            drawn = [(_shuffled(rows, clients_draw), contains) for rows, contains in drawn]
        features = []
        for number, (rows, _) in enumerate(drawn, start=1):
            client = Client(
                model, auxiliary.images[rows], labels[rows], server.learning_rate, clients_draw
            )
            features.append(update_features(compute(client)))
            progress(number / len(drawn))
        forest = RandomForestClassifier(
            n_estimators=100,
            min_samples_leaf=5,
            min_samples_split=5,
            random_state=seed_for("ul's forest", name, batch_size) % 2**32,
        )
        pipeline = make_pipeline(Normalizer(), StandardScaler(), forest)
        pipeline.fit(np.stack(features), np.array([contains for _, contains in drawn]))
        return lambda rows: pipeline.predict_proba(rows)[:, 1]

    def _draw(
        self, present: Tensor, batch_size: int, generator: torch.Generator
    ) -> list[tuple[list[int], bool]]:
        """Return the rows of each training batch and whether it contains the property."""
        having, lacking = present.nonzero().flatten(), (~present).nonzero().flatten()
        with_it, without = _endless(having, generator), _endless(lacking, generator)
        counts = [max(1, int(share * batch_size)) for share in self.shares]
        drawn = []
        for count in islice(cycle(counts), min(self.batches // 2, len(having), len(lacking))):
            drawn.append(([*islice(with_it, count), *islice(without, batch_size - count)], True))
            drawn.append(([*islice(without, batch_size)], False))
        return drawn


def update_features(update: Mapping[str, Tensor]) -> NDArray[np.float32]:
    """Return |g| of one update, reduced as Melis et al.'s published code does, shape (n,).

    Of each convolution's kernel the largest entry is kept, a convolution of more than 5,000 kernels
    left out; of a dense matrix of more than 5,000 entries the largest of each input's over the
    units, the last axis in their layout. Biases, and whatever else has one axis, are dropped.
    """
    parts = []
    for entry in update.values():
        magnitude = entry.detach().abs()
        if magnitude.ndim < 2:
            continue
        large = magnitude.shape[0] * magnitude.shape[1] > LARGE
        if magnitude.ndim > 2:
            if large:
                continue
            magnitude = magnitude.flatten(2).amax(2)
        elif large:
            magnitude = magnitude.amax(0)
        parts.append(magnitude.flatten())
    return torch.cat(parts).float().cpu().numpy()


def _endless(rows: Tensor, generator: torch.Generator) -> Iterator[int]:
    """Yield rows in random order, each again only after all others."""
    while True:
        yield from rows[torch.randperm(len(rows), generator=generator)].tolist()


def _shuffled(rows: list[int], generator: torch.Generator) -> list[int]:
    return [rows[i] for i in torch.randperm(len(rows), generator=generator).tolist()]


def _labels(labels: Tensor, classes: int, generator: torch.Generator) -> Tensor:
    """Return the labels with which updates are simulated: random ones where they are unknown."""
    random = torch.randint(classes, labels.shape, generator=generator).to(labels.device)
    return torch.where(labels < 0, random, labels)
