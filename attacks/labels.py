"""Recovery of a batch's main-task labels from the update alone."""

from __future__ import annotations

import torch
from torch import Tensor


def label_counts_from_bias(bias_gradient: Tensor, expected: Tensor, batch_size: int) -> Tensor:
    """Return labels, in ascending order, whose counts explain the output layer's bias gradient.

    With cross-entropy that gradient is mean(p) − counts / B, where p are the predicted
    probabilities. mean(p) is not known; `expected` stands in for it. Labels are taken greedily,
    each time the class of which most is left of B · (expected − gradient), so repeats are found.
    Exact at B = 1, and wherever `expected` is off by less than 1 / 2B in every class; a trained
    model whose predictions differ from `expected` makes it err.

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
    left = batch_size * (expected - bias_gradient)
    labels = []
    for _ in range(batch_size):
        likeliest = left.argmax()
        labels.append(likeliest)
        left[likeliest] -= 1
    return torch.stack(labels).sort().values
