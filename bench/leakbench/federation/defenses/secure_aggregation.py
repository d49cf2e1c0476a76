"""Secure aggregation: the server sees only the mean of several clients' updates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from pydantic import Field

from leakbench.base.errors import UsageError
from leakbench.base.registry import register_defense
from leakbench.federation.client import Client, Compute, Update
from leakbench.federation.defense import Defense, Stage


@register_defense("secure_aggregation")
@dataclass(frozen=True, kw_only=True)
class SecureAggregation(Defense):
    """The server sees the mean of several clients' updates, and no single update.

    B individuals of each client contribute to the mean. Training is unchanged, since it uses only
    the clients' sum anyway.

    Attributes:
        of: number m of clients.
    """

    reference: ClassVar[str] = (
        "Bonawitz, Ivanov, Kreuter, Marcedone, McMahan, Patel, Ramage, Segal, Seth 2017, Practical "
        "Secure Aggregation for Privacy-Preserving Machine Learning (CCS)"
    )
    stage: ClassVar[Stage] = Stage.AGGREGATE

    of: Annotated[int, Field(gt=0)]

    def protect(self, compute: Compute) -> Compute:
        """Return the mean of `compute` over the clients' parts of the batch, in order."""

        def protected(client: Client) -> Update:
            size, left = divmod(len(client.labels), self.of)
            if left or not size:
                raise UsageError(
                    f"defense 'secure_aggregation' cannot divide {len(client.labels)} individuals "
                    f"among {self.of} clients; use a multiple of it"
                )
            updates = [
                compute(replace(client, images=images, labels=labels))
                for images, labels in zip(
                    torch.split(client.images, size), torch.split(client.labels, size), strict=True
                )
            ]
            return {
                name: torch.stack([update[name] for update in updates]).sum(0) / self.of
                for name in updates[0]
            }

        return protected if self.of > 1 else compute

    @property
    def clients(self) -> int:
        """Number of clients whose updates the server sees as one."""
        return self.of

    def client_part(self) -> Defense | None:
        """Return None: a single client applies nothing."""
        return None

    def rescale(self, update: Update, individuals: int) -> tuple[Update, int]:
        """Return the mean of m updates, each with independent noise, multiplied by √m."""
        return (
            {name: value * self.of**0.5 for name, value in update.items()},
            individuals // self.of,
        )

    example_parameters: ClassVar = {"of": 2}
