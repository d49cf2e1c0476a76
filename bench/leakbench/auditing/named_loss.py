"""The clients' loss by name, as the command line takes it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from leakbench.auditing.client_loss import Criterion
from leakbench.base.errors import UsageError


def named_loss(
    name: str, class_weights: Sequence[float], label_smoothing: float, reduction: str
) -> Criterion:
    """Return PyTorch's module of a loss; None for the mean cross-entropy.

    Args:
        name: `cross-entropy` of logits, `nll` of log-probabilities, `binary` cross-entropy of each
            logit, or `squared` error.
        class_weights: of each class, or `pos_weight` of each logit with `binary`; empty for none.
        label_smoothing: of the cross-entropy, in [0, 1).
        reduction: `mean` or `sum`.

    Raises:
        UsageError: the loss has no such parameter, or its value is out of range.

    >>> named_loss("binary", [2.0], 0.0, "sum").pos_weight
    tensor([2.])
    """
    weights = torch.tensor(list(class_weights)) if class_weights else None
    if not 0 <= label_smoothing < 1:
        raise UsageError(f"--label-smoothing must be in [0, 1), not {label_smoothing:g}")
    if label_smoothing and name != "cross-entropy":
        raise UsageError(f"--label-smoothing is of --loss cross-entropy, not of {name}")
    if weights is not None and name == "squared":
        raise UsageError("--class-weight is of the cross-entropies, not of --loss squared")
    if name == "binary":
        return nn.BCEWithLogitsLoss(pos_weight=weights, reduction=reduction)
    if name == "squared":
        return nn.MSELoss(reduction=reduction)
    if name == "nll":
        return nn.NLLLoss(weights, reduction=reduction)
    if weights is None and not label_smoothing and reduction == "mean":
        return None
    return nn.CrossEntropyLoss(weights, reduction=reduction, label_smoothing=label_smoothing)
