"""Matching of reconstructed individuals, which have no order, to the true ones."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional


def match_individuals(reconstructed: Tensor, true: Tensor) -> tuple[Tensor, Tensor]:
    """Assign reconstructed features to individuals, one to one, with the greatest sum of cosines.

    The Hungarian method uses features only, never a property. It overestimates every attack a
    little, since it selects among the permutations by the ground truth; the `blind` control and
    swapped answers measure by how much.

    Args:
        reconstructed: standardised by D_aux, see `Standardisation`; shape (B, d).
        true: likewise, shape (B, d).

    Returns:
        The row of each individual's reconstruction, shape (B,), and the cosine between the two,
        shape (B,); 1 for equal features, be they zero, and otherwise 0 for a zero feature.
    """
    cosine = functional.normalize(true.cpu()) @ functional.normalize(reconstructed.cpu()).T
    both_zero = (true == 0).all(1)[:, None] & (reconstructed == 0).all(1)[None]
    cosine = cosine.masked_fill(both_zero.cpu(), 1.0)
    rows, columns = linear_sum_assignment(cosine.numpy(), maximize=True)
    order = torch.empty(len(true), dtype=torch.long)
    order[torch.from_numpy(rows)] = torch.from_numpy(columns)
    return order, cosine[torch.arange(len(true)), order]
