"""SPEAR: exact features of small batches from the gradient of a hidden ReLU layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from leakbench.attacks.linear_layers.sparse_column_attack import SparseColumnAttack
from leakbench.attacks.linear_layers.sparse_columns import SparseColumns
from leakbench.base.registry import register_attack


@register_attack("spear")
@dataclass(frozen=True, kw_only=True)
class Spear(SparseColumnAttack):
    """Finds a batch's features exactly where the split is before a hidden ReLU layer.

    Random rows of the layer's gradient are sampled until, for each individual, B − 1 of them belong
    to units that it does not activate, see `linear_layers.sparse_columns`: that takes about 2ᴮ
    samples, which the paper affords up to B = 25 on a GPU. Labels are not used. A batch is
    certified if its features activate exactly the units that its columns imply. With two classes
    and one hidden layer it finds fewer: the difference of two columns vanishes wherever both
    individuals have the same mask, and is as sparse.

    Attributes:
        samples: samples of rows of each victim batch, at most.
        samples_at_once: samples side by side.
    """

    title = "SPEAR"
    reference = (
        "Dimitrov, Baader, Müller, Vechev 2024, SPEAR: Exact Gradient Inversion of Batches in "
        "Federated Learning (NeurIPS), OpenReview lPDxPVS6ix"
    )
    example_parameters: ClassVar = {"samples": 500}
    presets = {"paper": {"samples": 2**28, "samples_at_once": 2**14}}  # noqa: RUF012

    samples: Annotated[int, Field(gt=0, le=2**29)] = 200_000
    samples_at_once: Annotated[int, Field(gt=0)] = 4096

    @property
    def proposals(self) -> int:
        """One of each sample."""
        return self.samples

    @property
    def proposals_at_once(self) -> int:
        """One of each sample."""
        return self.samples_at_once

    def propose(self, columns: SparseColumns, count: int, generator: torch.Generator) -> Tensor:
        """Sample rows."""
        return columns.sampled(count, generator)

    def work(self, batch_size: int) -> float:
        """The work of the samples."""
        return min(self.samples, DRAWS * 2.0**batch_size) * DRAW / batch_size


DRAWS = 4
"""Samples that a batch takes, in multiples of 2ᴮ."""

DRAW = 0.01
"""Work of a sample, in evaluations of an individual's gradient."""
