"""Candidates for membership inference: half are in the victim batch, half are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from leakbench.base.errors import UsageError
from leakbench.threat.observation import GroundTruth


@dataclass(frozen=True)
class Candidates:
    """A batch's individuals and as many others, in random order.

    Attributes:
        images: in [0, 1], shape (2B, 3, size, size).
        members: whether the image is in the batch, shape (2B,).
        identities: number of the person or object shown, shape (2B,).
    """

    images: Tensor
    members: Tensor
    identities: Tensor


def candidates_of(
    truths: Sequence[GroundTruth], number: int, generator: torch.Generator
) -> Candidates:
    """Return candidates for batch `number`: its individuals, and as many of other batches.

    The others share no identity with the batch.

    Raises:
        UsageError: the other batches hold too few people.
    """
    batch, rest = truths[number], [t for i, t in enumerate(truths) if i != number]
    identities = torch.cat([batch.identities[:0], *(truth.identities for truth in rest)])
    others = (~torch.isin(identities, batch.identities)).nonzero().flatten()
    if len(others) < len(batch):
        raise UsageError(
            f"candidates for a batch of {len(batch)} need as many victims of other batches, and "
            f"there are {len(others)}; raise individuals, or lower batch_size"
        )
    chosen = others[torch.randperm(len(others), generator=generator)[: len(batch)]]
    images = torch.cat([batch.images[:0], *(truth.images for truth in rest)])
    order = torch.randperm(2 * len(batch), generator=generator)
    members = torch.arange(2 * len(batch)) < len(batch)
    return Candidates(
        images=torch.cat([batch.images, images[chosen.to(images.device)]])[order],
        members=members[order],
        identities=torch.cat([batch.identities, identities[chosen]])[order],
    )
