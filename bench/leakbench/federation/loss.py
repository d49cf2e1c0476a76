"""The loss of the main task: cross-entropies of several logits, or of a single one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Loss:
    """A cross-entropy of the main-task label y; by default its mean over the batch.

    Of an individual it is −Σ_k t_yk log p_k, where p is the softmax of K logits, or (1 − σ, σ) of a
    single one, and t_y the row of `targets`: w_y e_y, smoothed as PyTorch does. So its derivative
    by the logits is (Σ_k t_yk) p − t_y, or (Σ_k t_yk) σ − t_y1.

    Attributes:
        class_weights: w of each class, above 0; empty for 1 each.
        label_smoothing: ε in [0, 1).
        reduction: of the batch: `mean` divides by the sum of w_y with several logits, and by B with
            a single one, as PyTorch does.
        one_logit: whether the model returns a single logit, of class 1 against class 0.
    """

    class_weights: tuple[float, ...] = ()
    label_smoothing: float = 0.0
    reduction: Literal["mean", "sum"] = "mean"
    one_logit: bool = False

    @property
    def is_plain(self) -> bool:
        """Whether it is the mean cross-entropy of several logits, of classes of equal weight."""
        return self == PLAIN

    def classes(self, logits: int) -> int:
        """Return the number K of classes of a model with so many logits."""
        return 2 if self.one_logit else logits

    def value(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of a batch, a scalar.

        Args:
            logits: shape (B, K), or (B, 1) of a single one.
            labels: classes, shape (B,), or, if there are no weights, class probabilities (B, K).
        """
        weights = logits.new_tensor(self.class_weights) if self.class_weights else None
        if not self.one_logit:
            return functional.cross_entropy(
                logits,
                labels,
                weight=weights,
                reduction=self.reduction,
                label_smoothing=self.label_smoothing,
            )
        return functional.binary_cross_entropy_with_logits(
            logits[:, 0],
            labels.to(logits),
            weight=None if weights is None else weights[labels],
            reduction=self.reduction,
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        """Return the probability of each class, shape (…, K), for logits (…, K) or (…, 1)."""
        if self.one_logit:
            return torch.cat([(-logits).sigmoid(), logits.sigmoid()], dim=-1)
        return logits.softmax(-1)

    def predicted(self, logits: Tensor) -> Tensor:
        """Return the likeliest classes, shape (n,)."""
        return (logits[:, 0] > 0).long() if self.one_logit else logits.argmax(1)

    def targets(self, classes: int) -> Tensor:
        """Return t_y of each class y, in double precision, shape (K, K)."""
        weights = torch.tensor(self.class_weights or (1.0,) * classes, dtype=torch.float64)
        smooth = self.label_smoothing
        return (1 - smooth) * weights.diag() + smooth / classes * weights

    def errors(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the derivative of an individual's loss by its logits.

        Args:
            logits: shape (…, K), or (…, 1) of a single one.
            targets: t_y of the individual's label, shape (…, K).
        """
        if self.is_plain:
            return logits.softmax(-1) - targets
        mass = targets.sum(-1, keepdim=True)
        if self.one_logit:
            return mass * logits.sigmoid() - targets[..., 1:]
        return mass * logits.softmax(-1) - targets

    def errors_derivative(self, logits: Tensor, derivatives: Tensor, targets: Tensor) -> Tensor:
        """Return derivatives (…, K, q) of `errors`, where those of the logits are given.

        Args:
            logits: shape (…, K), or (…, 1) of a single one.
            derivatives: of the logits, shape (…, K, q), or (…, 1, q).
            targets: as for `errors`.
        """
        if self.one_logit:
            p = logits.sigmoid()
            moved = (p * (1 - p))[..., None] * derivatives
        else:
            p = logits.softmax(-1)
            moved = p[..., None] * (derivatives - p[..., None, :] @ derivatives)
        if self.is_plain:
            return moved
        return targets.sum(-1)[..., None, None] * moved

    def denominator(self, labels: Tensor) -> float:
        """Return by what the sum over a batch of these labels, shape (B,), is divided."""
        if self.reduction == "sum":
            return 1.0
        if self.one_logit or not self.class_weights:
            return float(len(labels))
        weights: list[float] = [self.class_weights[label] for label in labels.tolist()]
        return sum(weights)

    @property
    def error_dimensions_lost(self) -> int:
        """Return how many of the logits' errors follow from the others: they add up to 0."""
        return 0 if self.one_logit else 1

    @property
    def in_words(self) -> str:
        """The loss as part of a sentence."""
        kind = "binary cross-entropy of one logit" if self.one_logit else "cross-entropy"
        more = []
        if self.class_weights:
            shown = ", ".join(f"{weight:.3g}" for weight in self.class_weights[:5])
            rest = ", …" if len(self.class_weights) > len(self.class_weights[:5]) else ""
            more.append(f"class weights {shown}{rest}")
        if self.label_smoothing:
            more.append(f"label smoothing {self.label_smoothing:g}")
        return f"the {self.reduction} {kind}{' with ' if more else ''}{' and '.join(more)}"


PLAIN = Loss()
"""The mean cross-entropy of several logits."""
