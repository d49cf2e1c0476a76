"""The loss that clients compute, as a user names it."""

from __future__ import annotations

import copy
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional

from leakbench.base.errors import UsageError
from leakbench.federation.loss import PLAIN, Loss

Criterion = nn.Module | None
"""The user's loss, a module of PyTorch's; None for the mean cross-entropy."""


def loss_of(criterion: Criterion, logits: int) -> Loss:
    """Return the loss that a module computes.

    Args:
        logits: how many the model returns.

    Raises:
        UsageError: attacks cannot state it; says what would be needed.
    """
    if criterion is None:
        if logits == 1:
            raise UsageError(
                "the model returns a single logit; give loss=nn.BCEWithLogitsLoss() for two "
                "classes, or let it return a logit for each class"
            )
        return PLAIN
    if type(criterion) is nn.CrossEntropyLoss:
        return _cross_entropy(criterion, logits)
    if type(criterion) is nn.BCEWithLogitsLoss:
        return _binary(criterion, logits)
    kind = type(criterion).__name__ if isinstance(criterion, nn.Module) else repr(criterion)[:50]
    raise UsageError(
        f"loss {kind} cannot be audited: attacks need the derivative of the loss by the logits for "
        f"each label, and have it for nn.CrossEntropyLoss and nn.BCEWithLogitsLoss; let the model "
        f"return logits, and give one of these"
    )


def _cross_entropy(criterion: nn.CrossEntropyLoss, logits: int) -> Loss:
    if logits == 1:
        raise UsageError(
            "nn.CrossEntropyLoss needs a logit for each class, but the model returns a single one; "
            "give loss=nn.BCEWithLogitsLoss()"
        )
    if criterion.ignore_index >= 0:
        raise UsageError(
            f"individuals of class ignore_index={criterion.ignore_index} add nothing to an update, "
            f"so that the batch size is not that of the update; leave them out of the batches, and "
            f"give a loss without ignore_index"
        )
    weights = _weights(criterion.weight)
    if weights and len(weights) != logits:
        raise UsageError(
            f"the loss has weights of {len(weights)} classes, but the model returns {logits} logits"
        )
    return Loss(weights, criterion.label_smoothing, _reduction(criterion))


def _binary(criterion: nn.BCEWithLogitsLoss, logits: int) -> Loss:
    if logits != 1:
        raise UsageError(
            f"nn.BCEWithLogitsLoss of {logits} logits has a set of labels for each individual: "
            f"attacks would have to search over all 2^{logits} sets, and search over one label of "
            f"each; audit one logit at a time, or a model with nn.CrossEntropyLoss"
        )
    if criterion.weight is not None:
        raise UsageError(
            "nn.BCEWithLogitsLoss with a weight of each individual: attacks would need to know it; "
            "use pos_weight, or leave weight out"
        )
    positive = _weights(criterion.pos_weight)
    weights = (1.0, *positive) if positive else ()
    return Loss(weights, reduction=_reduction(criterion), one_logit=True)


def _weights(weight: Tensor | None) -> tuple[float, ...]:
    """Return class weights, empty where all are 1.

    Raises:
        UsageError: one is not above 0.
    """
    found = () if weight is None else tuple(float(each) for each in weight.flatten())
    if not all(0 < each < float("inf") for each in found):
        raise UsageError(
            "class weights must be above 0: individuals of a class of weight 0 add nothing to an "
            "update, so that nothing can be inferred of them; leave them out of the batches"
        )
    return () if all(each == 1 for each in found) else found


def _reduction(criterion: nn.CrossEntropyLoss | nn.BCEWithLogitsLoss) -> Literal["mean", "sum"]:
    if criterion.reduction == "mean":
        return "mean"
    if criterion.reduction == "sum":
        return "sum"
    raise UsageError(
        f"the loss has reduction={criterion.reduction!r}, which is no scalar that clients "
        f"differentiate; give it with `mean` or `sum`"
    )


def value_of(criterion: Criterion, logits: Tensor, labels: Tensor) -> Tensor:
    """Return what the user's own loss is for logits, shape (n, K) or (n, 1), and classes (n,)."""
    if criterion is None:
        return functional.cross_entropy(logits, labels)
    own: nn.Module = copy.deepcopy(criterion).to(logits)
    if isinstance(criterion, nn.BCEWithLogitsLoss):
        labels = labels[:, None].to(logits)
    return own(logits, labels)  # type: ignore[no-any-return]
