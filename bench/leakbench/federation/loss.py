"""The loss of the main task: cross-entropies and squared error, each over a list of targets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Link = Literal["softmax", "sigmoid", "identity"]
"""What makes predictions p of logits z; the loss is the one whose derivative is about p − t."""


@dataclass(frozen=True)
class Loss:
    """A loss of the main-task label y; by default the mean cross-entropy over the batch.

    A label is a number y; its target t_y is a row of a list, by default one-hot. Of an individual
    with K logits z, and for each link, the loss and its derivative by z_k are

    - softmax: −Σ_k t_yk log p_k, and (Σ_j t_yj) p_k − t_yk; t_y is weighted by `class_weights` and
      smoothed as PyTorch does;
    - sigmoid: −Σ_k (w_k t_yk log p_k + (1 − t_yk) log(1 − p_k)), and (w_k t_yk + 1 − t_yk) p_k −
      w_k t_yk, where w are the `class_weights`;
    - identity: Σ_k (z_k − t_yk)², and 2 (z_k − t_yk).

    Attributes:
        class_weights: w, above 0; empty for 1 each.
        label_smoothing: ε in [0, 1), of the softmax.
        reduction: of the batch: `mean` divides by B, by the sum of w_y with a softmax and class
            numbers, and by B·K with the other links, as PyTorch does.
        link: of predictions to logits.
        table: t_y of each label y, K numbers each; empty for one-hot targets with a softmax.
    """

    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    reduction: Literal["mean", "sum"] = "mean"
    link: Link = "softmax"
    table: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.link != "softmax" and not self.table:
            raise ValueError(f"a loss with link {self.link} needs a table of targets")

    @property
    def is_plain(self) -> bool:
        """Whether it is the mean cross-entropy of several logits, of classes of equal weight."""
        return self == PLAIN

    @property
    def one_logit(self) -> bool:
        """Whether the model returns a single logit, of class 1 against class 0."""
        return self.link == "sigmoid" and len(self.table[0]) == 1

    @property
    def is_affine(self) -> bool:
        """Whether its derivative by the logits is affine: mixtures may look like individuals."""
        return self.link == "identity"

    def classes(self, logits: int) -> int:
        """Return the number of labels of a model with so many logits."""
        return len(self.table) or logits

    def value(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            logits: shape (B, K).
            labels: shape (B,); or, without table and weights, class probabilities (B, K).
        """
        weights = logits.new_tensor(self.class_weights) if self.class_weights else None
        targets = logits.new_tensor(self.table)[labels] if self.table else labels
        if self.link == "identity":
            return functional.mse_loss(logits, targets, reduction=self.reduction)
        if self.link == "sigmoid":
            return functional.binary_cross_entropy_with_logits(
                logits, targets, pos_weight=weights, reduction=self.reduction
            )
        return functional.cross_entropy(
            logits,
            targets,
            weight=weights,
            reduction=self.reduction,
            label_smoothing=self.label_smoothing,
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the predictions for logits (…, K).

        Returns:
            The probability of each class, shape (…, K), and (…, 2) of a single logit; with several
            logits and a sigmoid that of each; for squared error the outputs themselves.
        """
        if self.one_logit:
            return torch.cat([(-logits).sigmoid(), logits.sigmoid()], dim=-1)
        return self._linked(logits)

    def logits_of(self, predictions: Tensor) -> Tensor:
        """Return logits, shape (…, K), with such predictions as `probabilities` returns."""
        if self.link == "identity":
            return predictions
        if self.link == "softmax":
            return predictions.clamp_min(TINY).log()
        present = predictions[..., 1:] if self.one_logit else predictions
        return present.clamp(TINY, 1 - TINY).logit()

    def predicted(self, logits: Tensor) -> Tensor:
        """Return the labels whose targets are nearest to the predictions, shape (n,)."""
        if not self.table:
            return logits.argmax(1)
        predictions = self._linked(logits)
        return torch.cdist(predictions, predictions.new_tensor(self.table)).argmin(1)

    def targets(self, classes: int) -> Tensor:
        """Return of each label what `errors` takes, in double precision.

        Returns:
            Shape (classes, K): the targets, weighted and smoothed; with a sigmoid (classes, 2 K),
            the weights of 1 − t and of t.
        """
        double = torch.float64
        rows = torch.tensor(self.table, dtype=double) if self.table else torch.eye(classes).double()
        weights = torch.tensor(self.class_weights or (1.0,) * rows.shape[1], dtype=double)
        if self.link == "identity":
            return rows
        if self.link == "sigmoid":
            return torch.cat([1 - rows, weights * rows], dim=1)
        smooth = self.label_smoothing
        return (1 - smooth) * (weights * rows) + smooth / rows.shape[1] * weights

    def errors(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the derivative of an individual's loss by its logits, shape (…, K).

        Args:
            logits: shape (…, K).
            targets: rows of `targets`, of the individual's label.
        """
        if self.is_plain:
            return logits.softmax(-1) - targets
        if self.link == "identity":
            return 2 * (logits - targets)
        return _mass(self.link, targets) * self._linked(logits) - _aimed_at(self.link, targets)

    def errors_derivative(self, logits: Tensor, derivatives: Tensor, targets: Tensor) -> Tensor:
        """Return derivatives (…, K, q) of `errors`, where those of the logits are given.

        Args:
            logits: shape (…, K).
            derivatives: of the logits, shape (…, K, q).
            targets: as for `errors`.
        """
        if self.link == "identity":
            return 2 * derivatives
        p = self._linked(logits)
        if self.link == "sigmoid":
            moved = (p * (1 - p))[..., None] * derivatives
        else:
            moved = p[..., None] * (derivatives - p[..., None, :] @ derivatives)
        if self.is_plain:
            return moved
        return _mass(self.link, targets)[..., None] * moved

    def denominator(self, labels: Tensor) -> float:
        """Return by what the sum over a batch of these labels, shape (B,), is divided."""
        if self.reduction == "sum":
            return 1.0
        if self.link != "softmax":
            return float(len(labels) * len(self.table[0]))
        if self.table or not self.class_weights:
            return float(len(labels))
        weights: list[float] = [self.class_weights[label] for label in labels.tolist()]
        return sum(weights)

    @property
    def error_dimensions_lost(self) -> int:
        """Return how many of the logits' errors follow from the others: a softmax's add up to 0."""
        return 1 if self.link == "softmax" else 0

    @property
    def in_words(self) -> str:
        """The loss as part of a sentence."""
        more = []
        if self.class_weights:
            shown = ", ".join(f"{weight:.3g}" for weight in self.class_weights[:5])
            rest = ", …" if len(self.class_weights) > len(self.class_weights[:5]) else ""
            kind = "positive" if self.link == "sigmoid" else "class"
            more.append(f"{kind} weights {shown}{rest}")
        if self.label_smoothing:
            more.append(f"label smoothing {self.label_smoothing:g}")
        if self.table and not self.one_logit:
            more.append(f"a list of {len(self.table)} targets")
        return f"the {self.reduction} {self._kind}{' with ' if more else ''}{' and '.join(more)}"

    @property
    def _kind(self) -> str:
        if self.link == "identity":
            return "squared error"
        if self.link == "softmax":
            return "cross-entropy"
        logits = len(self.table[0])
        return f"binary cross-entropy of {'one logit' if logits == 1 else f'{logits} logits'}"

    def _linked(self, logits: Tensor) -> Tensor:
        """Return p of z, shape (…, K)."""
        if self.link == "identity":
            return logits
        return logits.softmax(-1) if self.link == "softmax" else logits.sigmoid()


def _mass(link: Link, targets: Tensor) -> Tensor:
    """Return by what predictions are multiplied in the errors, shape (…, 1) or (…, K)."""
    if link == "softmax":
        return targets.sum(-1, keepdim=True)
    absent, present = targets.chunk(2, dim=-1)
    return absent + present


def _aimed_at(link: Link, targets: Tensor) -> Tensor:
    """Return what is subtracted in the errors, shape (…, K)."""
    return targets if link == "softmax" else targets.chunk(2, dim=-1)[1]


PLAIN = Loss()
"""The mean cross-entropy of several logits."""

BINARY = ((0.0,), (1.0,))
"""Targets of a single logit, of class 1 against class 0."""

TINY = 1e-12
"""Least probability whose logarithm is taken."""
