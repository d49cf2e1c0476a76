"""Individuals' features as the independent components of a layer's weight gradient.

Row j of the gradient of W, shape (m, d), is Σ_i x_ji h_i: a mixture of B features, each of which
has d values. Whitened, the rows are b ≤ B mixtures that are not correlated, and a feature is one of
their combinations: the one that is sparse, of one sign, and tells nothing of the others.

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

from attacks.mixture import rank_of


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
    """Whitened mixtures of V victims, in single precision.

    Attributes:
        white: of mean 0 and variance 1 over d, not correlated, shape (V, b, d).
        means: W_w μ, what whitening makes of the rows' means, shape (V, b).
    """

    white: Tensor
    means: Tensor


def whitened(gradient: Tensor, individuals: int, precision: float) -> Mixtures:
    """Return the mixtures of one victim, V = 1.

    Args:
        gradient: of W, finite, shape (m, d).
        individuals: B.
        precision: the unit of the last place of its numbers.
    """
    mean = gradient.mean(1, keepdim=True)
    left, values, right = torch.linalg.svd(gradient - mean, full_matrices=False)
    count = min(rank_of(values, precision), individuals)
    root = gradient.shape[1] ** 0.5
    means = root * (left[:, :count].mT @ mean).squeeze(1) / values[:count].clamp_min(TINY)
    return Mixtures((root * right[:count]).float()[None], means.float()[None])


def side_by_side(each: list[Mixtures]) -> Mixtures:
    """Return victims' mixtures of equal shape side by side."""
    return Mixtures(torch.cat([m.white for m in each]), torch.cat([m.means for m in each]))


def unmixed(
    mixtures: Mixtures,
    weights: Weights,
    learning_rate: float,
    iterations: int,
    progress: Callable[[float], None],
) -> Tensor:
    """Return the components that Adam finds from U = 1 on, shape (V, b, d).

    Components are up to a factor, which may be negative, and come in no order.
    """
    count = mixtures.white.shape[1]
    start = torch.eye(count, device=mixtures.white.device)
    unmixing = start.repeat(len(mixtures.white), 1, 1).requires_grad_()
    adam = torch.optim.Adam([unmixing], lr=learning_rate)
    for iteration in range(iterations):
        with torch.enable_grad():
            value = loss(unmixing, mixtures, weights).sum()
            (unmixing.grad,) = torch.autograd.grad(value, unmixing)
        adam.step()
        progress((iteration + 1) / iterations)
    return components(functional.normalize(unmixing.detach(), dim=2), mixtures)


def components(rows: Tensor, mixtures: Mixtures) -> Tensor:
    """Return what rows of U, shape (V, b, b), make of mixtures, means and all, shape (V, b, d)."""
    return rows @ mixtures.white + rows @ mixtures.means[:, :, None]


def loss(unmixing: Tensor, mixtures: Mixtures, weights: Weights) -> Tensor:
    """Return the loss of each victim's U, shape (V, b, b) → (V,).

    Rows of U count by their direction.
    """
    rows = functional.normalize(unmixing, dim=2)
    centred = rows @ mixtures.white
    whole = centred + rows @ mixtures.means[:, :, None]
    entropy = log_cosh(centred).mean(2).square().mean(1)
    negative, positive = (-whole).relu().norm(dim=2), whole.relu().norm(dim=2)
    signs = torch.minimum(negative, positive).mean(1)
    size = whole.abs().mean((1, 2))
    return (
        weights.decorrelation * _in_common(rows, weights.temperature)
        + weights.non_negativity * signs
        + weights.sparsity * size
        - weights.negative_entropy * entropy
    )


def log_cosh(values: Tensor) -> Tensor:
    """Return log cosh, which is finite however large the values.

    >>> log_cosh(torch.tensor([0.0, 1000.0]))
    tensor([  0.0000, 999.3069])
    """
    size = values.abs()
    return size + functional.softplus(-2 * size) - LOG_2


def _in_common(rows: Tensor, temperature: float) -> Tensor:
    """Return the mean of exp(T |cos|) − 1 over pairs of different rows, (V, b, b) → (V,)."""
    count = rows.shape[1]
    pairs = (temperature * (rows @ rows.mT).abs()).expm1()
    different = 1 - torch.eye(count, device=rows.device)
    return (pairs * different).sum((1, 2)) / max(1, count * (count - 1))


LOG_2 = 0.6931471805599453
"""log 2."""

TINY = 1e-300
"""Below this a singular value is none."""
