"""Recovery of a batch's main-task labels from the update alone."""

from __future__ import annotations

import torch
from torch import Tensor


def label_counts_from_bias(bias_gradient: Tensor, expected: Tensor, batch_size: int) -> Tensor:
    """Return labels, in ascending order, whose counts explain the output layer's bias gradient.

    With cross-entropy that gradient is mean(p) − counts / B, where p are the predicted
    probabilities. mean(p) is not known; `expected` stands in for it. Counts are the largest
    remainders of B · (expected − gradient), so repeated labels are found. Exact at B = 1, and
    wherever `expected` is off by less than 1 / 2B; a trained model whose predictions differ from
    `expected` makes it err.

    Args:
        bias_gradient: shape (K,).
        expected: a guess of the mean predicted probabilities, shape (K,).
        batch_size: B.

    Returns:
        Classes, shape (B,).

    >>> y = torch.tensor([0, 0, 1, 3, 3, 3, 7, 7])
    >>> p = torch.full((8,), 1 / 8)
    >>> label_counts_from_bias(p - torch.bincount(y, minlength=8) / 8, p, 8)
    tensor([0, 0, 1, 3, 3, 3, 7, 7])
    """
    if batch_size == 1:
        # Only the true class has a negative gradient, p − 1 (iDLG, Zhao et al. 2020).
        return bias_gradient.argmin().reshape(1)
    estimate = (batch_size * (expected - bias_gradient)).clamp_min(0)
    estimate = estimate * batch_size / estimate.sum().clamp_min(1e-12)
    counts = estimate.floor().long()
    missing = batch_size - int(counts.sum())
    largest = (estimate - counts).topk(min(missing, len(counts))).indices
    counts[largest] += 1
    return torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
