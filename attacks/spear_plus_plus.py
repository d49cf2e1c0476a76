"""SPEAR++: SPEAR's columns by learning a dictionary in place of sampling rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from leakbench.attacks.linear_layers.sparse_column_attack import SparseColumnAttack
from leakbench.attacks.linear_layers.sparse_columns import SparseColumns
from leakbench.attacks.linear_layers.sparse_directions import random_starts, sparse_directions
from leakbench.base.registry import register_attack


@register_attack("spear_plus_plus")
@dataclass(frozen=True, kw_only=True)
class SpearPlusPlus(SparseColumnAttack):
    """Finds a batch's features exactly where the split is before a hidden ReLU layer.

    As `spear`, but candidates for columns are local minima of Σ |U q| on the unit sphere, see
    `linear_layers.sparse_directions`, so that the work does not grow as 2ᴮ. What follows, which of
    them are taken and when they are certified, is SPEAR's.

    Attributes:
        starts: minimisations of each victim batch, at most.
        starts_at_once: minimisations side by side.
        steps: of each minimisation.
    """

    title = "SPEAR++"
    reference = (
        "Bakarsky, Dimitrov, Baader, Vechev 2025, SPEAR++: Scaling Gradient Inversion via "
        "Sparsely-Used Dictionary Learning (arXiv 2510.24200)"
    )
    example_parameters: ClassVar = {"starts": 256, "steps": 100}

    starts: Annotated[int, Field(gt=0, le=2**24)] = 16_384
    starts_at_once: Annotated[int, Field(gt=0)] = 512
    steps: Annotated[int, Field(gt=0, le=10**6)] = 200

    @property
    def proposals(self) -> int:
        """One of each start."""
        return self.starts

    @property
    def proposals_at_once(self) -> int:
        """One of each start."""
        return self.starts_at_once

    def propose(self, columns: SparseColumns, count: int, generator: torch.Generator) -> Tensor:
        """Minimise from random starts."""
        basis = columns.space.basis
        return sparse_directions(basis, random_starts(basis, count, generator), self.steps)

    def work(self, batch_size: int) -> float:
        """The work of the steps, if all starts are needed."""
        return self.starts * self.steps * STEP / batch_size


STEP = 0.0005
"""Work of a step, in evaluations of an individual's gradient."""
