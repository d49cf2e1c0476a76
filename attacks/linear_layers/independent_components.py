"""Individuals' features as the independent components of a layer's weight gradient.

Row j of the gradient of W, shape (m, d), is Σ_i x_ji h_i: a mixture of B features, each of which
has d values. Whitened, the rows are b ≤ B mixtures that are not correlated, and a feature is one of
their combinations: the one that is sparse, of one sign, and independent of the others.

After Kariyappa, Guo, Maeng, Xiong, Suh, Qureshi, Lee 2023 (Cocktail Party Attack). Their public
code computes the negative entropy and then overwrites it with zero, and takes absolute values of
the components and orders them by the truth before it goes on; neither is done here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.linear_layers.demixing.gradient_space import rank_of


@dataclass(frozen=True)
class Weights:
    """Of the parts of the loss.

    Attributes:
        negative_entropy: of how far components are from normally distributed.
        decorrelation: of how much they have in common.
        temperature: how much more it costs to have much in common.
        non_negativity: of the smaller of a component's two signs.
        sparsity: of a component's mean absolute value.
    """

    negative_entropy: float
    decorrelation: float
    temperature: float
    non_negativity: float
    sparsity: float


@dataclass(frozen=True)
class Mixtures:
    """Whitened mixtures of one victim batch, in single precision.

    Attributes:
        white: of mean 0 and variance 1 over d, not correlated, shape (b, d).
        means: W_w μ, what whitening makes of the rows' means, shape (b, 1).
    """

    white: Tensor
    means: Tensor


def whitened(gradient: Tensor, individuals: int, precision: float) -> Mixtures:
    """Return the mixtures of one victim batch.

    Args:
        gradient: of W, finite, shape (m, d).
        individuals: B.
        precision: the unit of the last place of its numbers.
    """
    mean = gradient.mean(1, keepdim=True)
    left, values, right = torch.linalg.svd(gradient - mean, full_matrices=False)
    count = min(rank_of(values, precision), individuals)
    root = gradient.shape[1] ** 0.5
    means = root * (left[:, :count].mT @ mean) / values[:count, None].clamp_min(TINY)
    return Mixtures((root * right[:count]).float(), means.float())


def unmixed(
    mixtures: Mixtures,
    weights: Weights,
    learning_rate: float,
    iterations: int,
    progress: Callable[[float], None],
) -> Tensor:
    """Return the components that Adam finds from U = 1 on, shape (b, d).

    Components are up to a factor, which may be negative, and come in no order.
    """
    unmixing = torch.eye(len(mixtures.white), device=mixtures.white.device).requires_grad_()
    adam = torch.optim.Adam([unmixing], lr=learning_rate)
    for iteration in range(iterations):
        with torch.enable_grad():
            value = loss(unmixing, mixtures, weights)
            (unmixing.grad,) = torch.autograd.grad(value, unmixing)
        adam.step()
        progress((iteration + 1) / iterations)
    rows = functional.normalize(unmixing.detach(), dim=1)
    return rows @ (mixtures.white + mixtures.means)


def loss(unmixing: Tensor, mixtures: Mixtures, weights: Weights) -> Tensor:
    """Return the loss of U, shape (b, b) → (); its rows count by their direction."""
    rows = functional.normalize(unmixing, dim=1)
    centred = rows @ mixtures.white
    whole = centred + rows @ mixtures.means
    entropy = log_cosh(centred).mean(1).square().mean()
    negative, positive = (-whole).relu().norm(dim=1), whole.relu().norm(dim=1)
    return (
        weights.decorrelation * _in_common(rows, weights.temperature)
        + weights.non_negativity * torch.minimum(negative, positive).mean()
        + weights.sparsity * whole.abs().mean()
        - weights.negative_entropy * entropy
    )


def log_cosh(values: Tensor) -> Tensor:
    """Return log cosh, which is finite however large the values.

    >>> log_cosh(torch.tensor([0.0, 100.0]))
    tensor([ 0.0000, 99.3069])
    """
    size = values.abs()
    return size + functional.softplus(-2 * size) - LOG_2


def _in_common(rows: Tensor, temperature: float) -> Tensor:
    """Return the mean of exp(T |cos|) − 1 over pairs of different rows, (b, b) → ()."""
    count = len(rows)
    pairs = (temperature * (rows @ rows.mT).abs()).expm1()
    different = 1 - torch.eye(count, device=rows.device)
    return (pairs * different).sum() / max(1, count * (count - 1))


LOG_2 = 0.6931471805599453
"""log 2."""

TINY = 1e-300
"""Below this a singular value is none."""
