"""Secure aggregation: a server that sees a sum."""

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
    """The server sees the mean of several clients' updates, and none of them alone.

    B individuals of each client stand behind what it sees. Training stays as it is, since there too
    nothing but the clients' sum is used.

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
        """Return the mean of what `compute` returns for each client's images, one after another."""

        def protected(client: Client) -> Update:
            size, left = divmod(len(client.labels), self.of)
            if left or not size:
                raise UsageError(
                    f"defense 'secure_aggregation' cannot divide {len(client.labels)} individuals "
                    f"among {self.of} clients; give it a multiple"
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
        """How many clients' batches the server sees as one."""
        return self.of

    def client_part(self) -> Defense | None:
        """Return None: a client does nothing by itself."""
        return None

    def rescale(self, update: Update, individuals: int) -> tuple[Update, int]:
        """Return the mean of m updates, each with noise of its own, times √m."""
        return (
            {name: value * self.of**0.5 for name, value in update.items()},
            individuals // self.of,
        )

    example_parameters: ClassVar = {"of": 2}
