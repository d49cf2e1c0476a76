"""The loss that clients compute, as a user names it."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from leakbench.base.errors import UsageError
from leakbench.federation.loss import BINARY, PLAIN, Loss

Criterion = nn.Module | Callable[[Any, Any], Any] | None
"""The user's loss, a module of PyTorch's or a function of outputs and targets; None for the mean
cross-entropy."""

Rows = tuple[tuple[float, ...], ...]
"""The target of each label."""


def loss_of(criterion: Criterion, logits: int, normalised: bool = False) -> Loss:
    """Return the loss that a module or function computes, of class numbers for labels.

    Args:
        logits: how many the model returns.
        normalised: whether these are log-probabilities, as after a log-softmax: of these the
            negative log-likelihood is the cross-entropy.

    Raises:
        UsageError: attacks cannot state it; says what would be needed.
    """
    if criterion is None:
        if logits == 1:
            raise UsageError(
                "the model returns a single logit; give loss=nn.BCEWithLogitsLoss() (--loss "
                "binary) for two classes, or let it return a logit for each class"
            )
        return PLAIN
    if type(criterion) is nn.CrossEntropyLoss:
        return _cross_entropy(criterion, logits)
    if type(criterion) is nn.BCEWithLogitsLoss:
        return _binary(criterion, logits)
    if type(criterion) is nn.MSELoss:
        return Loss(reduction=_reduction(criterion), link="identity", table=one_hot(logits))
    if type(criterion) is nn.NLLLoss:
        if not normalised:
            raise UsageError(
                "nn.NLLLoss takes log-probabilities, and the model returns something else; let it "
                "end in a log_softmax, or give nn.CrossEntropyLoss"
            )
        return _cross_entropy(criterion, logits)
    found = _same_as(criterion, logits, normalised)
    if found is not None:
        return found
    name = getattr(criterion, "__name__", type(criterion).__name__)
    raise UsageError(
        f"loss {name} cannot be audited: attacks need the derivative of the loss by the logits for "
        f"each label, and have it for nn.CrossEntropyLoss, nn.BCEWithLogitsLoss, nn.MSELoss and "
        f"functions that compute the same; let the model return logits, and give one of these"
    )


def _cross_entropy(criterion: nn.CrossEntropyLoss | nn.NLLLoss, logits: int) -> Loss:
    if logits == 1:
        raise UsageError(
            f"nn.{type(criterion).__name__} needs a logit for each class, but the model returns a "
            f"single one; give loss=nn.BCEWithLogitsLoss()"
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
    smoothing = criterion.label_smoothing if isinstance(criterion, nn.CrossEntropyLoss) else 0.0
    return Loss(weights, smoothing, _reduction(criterion))


def _binary(criterion: nn.BCEWithLogitsLoss, logits: int) -> Loss:
    if criterion.weight is not None:
        raise UsageError(
            "nn.BCEWithLogitsLoss with a weight of each individual: attacks would need to know it; "
            "use pos_weight, or leave weight out"
        )
    positive = _weights(criterion.pos_weight)
    if positive and len(positive) not in (1, logits):
        raise UsageError(
            f"the loss has pos_weight of {len(positive)} labels, but the model returns {logits} "
            f"logits"
        )
    positive = positive * logits if len(positive) == 1 else positive
    table = BINARY if logits == 1 else one_hot(logits)
    return Loss(positive, reduction=_reduction(criterion), link="sigmoid", table=table)


def one_hot(logits: int) -> Rows:
    """Return the one-hot target of each class.

    >>> one_hot(2)
    ((1.0, 0.0), (0.0, 1.0))
    """
    return tuple(map(tuple, torch.eye(logits).tolist()))


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


def _reduction(
    criterion: nn.CrossEntropyLoss | nn.NLLLoss | nn.BCEWithLogitsLoss | nn.MSELoss,
) -> Literal["mean", "sum"]:
    if criterion.reduction == "mean":
        return "mean"
    if criterion.reduction == "sum":
        return "sum"
    raise UsageError(
        f"the loss has reduction={criterion.reduction!r}, which is no scalar that clients "
        f"differentiate; give it with `mean` or `sum`"
    )


def _same_as(criterion: Criterion, logits: int, normalised: bool) -> Loss | None:
    """Return the loss, of those without weights, that a function has the values and derivatives of.

    It is compared on random batches of two sizes, so that a mean and a sum differ.
    """
    assert criterion is not None
    rows = BINARY if logits == 1 else one_hot(logits)
    known = [
        Loss(reduction=reduction, link=link, table=() if link == "softmax" else rows)
        for link in ("softmax", "sigmoid", "identity")
        for reduction in ("mean", "sum")
        if logits > 1 or link == "sigmoid"
    ]
    draw = torch.Generator().manual_seed(0)
    batches = [
        (
            3 * torch.randn(size, logits, generator=draw, dtype=torch.float64),
            torch.randint(max(2, logits), (size,), generator=draw),
        )
        for size in COMPARED
    ]
    return next(
        (each for each in known if all(_agree(criterion, each, *b, normalised) for b in batches)),
        None,
    )


def _agree(
    criterion: Callable[[Any, Any], Any],
    loss: Loss,
    logits: Tensor,
    labels: Tensor,
    normalised: bool,
) -> bool:
    """Whether a function and a loss have the same value and derivative."""
    targets = logits.new_tensor(loss.table)[labels] if loss.table else labels
    leaf = logits.clone().requires_grad_()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Of shapes that the function is not for.
            found = criterion(leaf.log_softmax(1) if normalised else leaf, targets)
        (gradient,) = torch.autograd.grad(found, leaf)
    except Exception:  # The user's code may raise anything on targets that it is not for.
        return False
    expected = loss.errors(logits, loss.targets(logits.shape[1])[labels]) / loss.denominator(labels)
    same_value = torch.allclose(found.detach(), loss.value(logits, labels))
    return same_value and torch.allclose(gradient, expected)


COMPARED = (5, 8)
"""Sizes of the batches on which a function is compared."""
