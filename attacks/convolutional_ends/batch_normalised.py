"""Convolutional ends whose BatchNorm normalises by the client's batch.

Clients in training mode compute y = γ ẑ + β with ẑ = W a′ / σ, where a′ = a − ā differs from the
mean of what the kernel sees over the N positions of the batch, and σ² = Var(W a) + ε. With
x = ∂L / ∂y, the gradients that they send are, channel by channel,

    ∂L/∂β = Σ x,   ∂L/∂γ = Σ x ẑ,   ∂L/∂W = γ/σ Σ (x − ∂L/∂β / N − ẑ ∂L/∂γ / N) a′ᵀ.

Since Σ a′ = 0, the sum that a frozen BatchNorm would give follows from them and one more matrix:

    Σ x a′ᵀ = σ/γ ∂L/∂W + ∂L/∂γ / σ · W C,   C = Σ a′ a′ᵀ / N.

C lies in the row space of ∂L/∂W, of N − 1 dimensions. Where clients send their running statistics,
the server knows Var(W a) = diag(W C Wᵀ): as many linear equations as channels for the N (N − 1) / 2
numbers of C. What they leave open is the noise of all that follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.convolutional_ends.convolution import normalised_by, sent_gradient
from leakbench.attacks.convolutional_ends.end import ConvolutionalEnd
from leakbench.attacks.demixable_ends.calls import double
from leakbench.attacks.linear_layers.demixing.gradient_space import rank_of
from leakbench.attacks.linear_layers.demixing.observed_gradient import ObservedGradient


@dataclass(frozen=True)
class AsFrozen:
    """What a batch would send if its BatchNorm were frozen at the batch's statistics.

    Attributes:
        end: with the batch's statistics in W and b; a is a′.
        gradient: Σ x [a′, 1]ᵀ.
    """

    end: ConvolutionalEnd
    gradient: ObservedGradient


def can_be_frozen(end: ConvolutionalEnd) -> bool:
    """Whether an end's gradient can be completed: no shortcut, and no zeros beyond the edge.

    What is zero there is no longer zero after the mean is taken away.
    """
    padding = end.convolution.module.padding
    return not end.has_shortcut and not any(padding) and bool(end.convolution.scale_name)


def as_frozen(
    end: ConvolutionalEnd,
    update: Mapping[str, Tensor],
    variance: Tensor,
    individuals: int,
) -> AsFrozen | None:
    """Return the end and gradient of a batch as if its BatchNorm were frozen.

    None where there are fewer equations than unknowns.

    Args:
        end: see `can_be_frozen`.
        update: finite.
        variance: biased, of BatchNorm's input over the batch, shape (m,).
        individuals: B.
    """
    own, variance = end.convolution, double(variance)
    assert own.norm is not None
    positions = individuals * end.positions
    deviations = (variance + own.norm.eps).sqrt()
    convolution = normalised_by(own, deviations)
    raw = double(own.module.weight).flatten(1)
    sent = sent_gradient(convolution, update)
    centred = sent.gradient[:, :-1]
    length = centred.norm(dim=1, keepdim=True)
    weighted = torch.where(length > 0, centred / length, 0.0)
    values, rows = torch.linalg.svd(weighted, full_matrices=False)[1:]
    rank = min(rank_of(values, convolution.precision(update)), positions - 1)
    along = raw @ rows[:rank].mT
    usable = variance > LEAST_VARIANCE * variance.median()
    unknown = rank * (rank + 1) // 2
    if int(usable.sum()) < SPARE * unknown:
        return None
    spread, error = _covariance(along[usable], variance[usable])
    # ∂L/∂γ is Σ x ẑ.
    factor = double(update[own.scale_name]) / deviations
    scaled = torch.where(sent.rows, factor, 0.0)[:, None] * along
    missing = functional.pad(scaled @ spread @ rows[:rank], (0, 1))
    moved = float(torch.linalg.matrix_norm(scaled @ error, 2).max())
    misfit = MARGIN * moved / sum(map(sqrt, missing.shape))
    completed = replace(sent, gradient=sent.gradient + missing, misfit=misfit)
    return AsFrozen(replace(end, convolution=convolution), completed)


def _covariance(along: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the symmetric C with along C alongᵀ of a given diagonal, and draws of its error.

    Args:
        along: shape (n, k).
        variance: shape (n,).

    Returns:
        C, shape (k, k), and draws of what it may be off by, shape (draws, k, k).
    """
    k = along.shape[1]
    first, second = torch.triu_indices(k, k)
    products = along[:, first] * along[:, second]
    products = products * torch.where(first == second, 1.0, 2.0)
    # Rounding is relative.
    design = products / variance[:, None]
    inverse = torch.linalg.pinv(design)
    solution = inverse @ torch.ones_like(variance)
    off = (design @ solution - 1).square().sum() / max(1, len(design) - len(solution))
    error = max(float(off.sqrt()), torch.finfo(torch.float32).eps)
    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(len(variance), DRAWS, generator=draw).to(design) * error
    return _symmetric(solution[None], k)[0], _symmetric((inverse @ noise).mT, k)


def _symmetric(entries: Tensor, k: int) -> Tensor:
    """Return symmetric matrices of their upper triangles, (n, k (k + 1) / 2) → (n, k, k)."""
    first, second = torch.triu_indices(k, k)
    matrices = entries.new_zeros(len(entries), k, k)
    matrices[:, first, second] = entries
    matrices[:, second, first] = entries
    return matrices


LEAST_VARIANCE = 1e-6
"""Channels of less variance, relative to the median, hardly differ between positions."""

SPARE = 1.1
"""Fewest equations for each unknown."""

DRAWS = 16
"""Draws of what rounding may do to C."""

MARGIN = 3.0
"""How many times as large the error may be as the largest one drawn."""
