"""The ground truth of a victim batch, and what the adversary observes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from leakbench.base.seeds import digest, generator_for, tensor_digest
from leakbench.base.stored_tensors import StoredTensors
from leakbench.threat.knowledge import Knowledge


@dataclass(frozen=True)
class GroundTruth:
    """The ground truth of one victim batch of B individuals; for scoring only.

    Attributes:
        images: in [0, 1], shape (B, 3, size, size).
        labels: main-task classes, shape (B,).
        features: E(X), shape (B, d).
        properties: property → presence, shape (B,) each.
        identities: number of the person or object shown, shape (B,).
        secret: digest of data that no adversary is ever shown, not even as candidates; empty
            where there are none.
    """

    images: Tensor
    labels: Tensor
    features: Tensor
    properties: Mapping[str, Tensor]
    identities: Tensor
    secret: str = ""

    def __len__(self) -> int:
        return len(self.labels)

    def digest(self) -> str:
        """Return a digest of the batch and the secret, equal on every device."""
        pixels = self.images
        if pixels.ndim == 4:  # Others, of an audit, are no pixels.
            pixels = (pixels.clamp(0, 1) * 255).round().to(torch.uint8)
        numbers = [pixels, self.labels.long(), self.identities.long()]
        return digest([tensor_digest(each) for each in numbers], self.secret)

    def generator(self, *purpose: Any) -> torch.Generator:
        """Return a CPU generator for the clients of this batch.

        Its seed depends on what only the ground truth holds, so that an adversary who knows all
        other seeds cannot draw a defense's noise again and subtract it.

        Args:
            purpose: what it is for; JSON values.
        """
        return generator_for(*purpose, self.digest())


@dataclass(frozen=True)
class Observation:
    """What the adversary observes of one victim batch; fields that are not granted are None.

    Attributes:
        batch_size: number of individuals B.
        seed: for the attack's own randomness.
        update: parameter name → gradient of the mean cross-entropy over the batch, or the
            defended update. Every look-up may read a copy from a file, so keep what you need often.
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


def observe(
    truth: GroundTruth,
    update: Mapping[str, Tensor],
    knowledge: Knowledge,
    seed: int,
    statistics: Mapping[str, tuple[Tensor, Tensor]] | None = None,
    outputs: Mapping[str, Tensor] | None = None,
    candidates: Tensor | None = None,
) -> Observation:
    """Return what an adversary with `knowledge` observes of a victim batch, as copies.

    Args:
        update: as the client sent it; stored tensors are copies whenever they are read.
    """
    known = statistics if Knowledge.STATISTICS in knowledge else None
    return Observation(
        batch_size=len(truth),
        seed=seed,
        update=_copied(update) if Knowledge.UPDATE in knowledge else None,
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


def _copied(update: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    if isinstance(update, StoredTensors):
        return update
    return {name: value.clone() for name, value in update.items()}
