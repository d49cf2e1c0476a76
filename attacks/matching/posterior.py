"""What an attack minimises where the update is mostly noise of known size: −log p(x̃ | update).

An update with independent noise of variance v says −log p(update | x̃) = ‖a∇ − ∇*‖² / 2v up to a
constant, and D_aux how likely images are. No weight between the two is left to choose. The scale a
is 1, but left free: with a = 1 the descent first makes the model so sure of the dummies that they
have no gradient, and stays there. The noise is taken for normal, which of Laplacian or rounding
noise keeps the variance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from leakbench.attacks.matching.distance import squared_error_at_best_scale
from leakbench.attacks.matching.method import Iterate, Method, Victim


def noise_variance(victim: Victim) -> dict[str, float]:
    """Return the variance of the noise on each of the update's tensors, by parameter name.

    Of a tensor trusted by t the share 1 − t of its energy is noise. Entries that were withheld have
    none.

    >>> noisy = Victim({"w": torch.tensor([2.0, 4.0])}, None, 1, 0, {}, {"w": torch.tensor([0.75])})
    >>> noise_variance(noisy)
    {'w': 2.5}
    """
    found = {}
    for name, value in victim.update.items():
        known = _known(victim, name)
        noise = ((1 - victim.reliability.get(name, torch.ones(()))) * value.square())[known]
        found[name] = float(noise.mean()) if len(noise) else 0.0
    return found


def mostly_noise(victim: Victim) -> bool:
    """Whether more than half of the update's energy is noise."""
    noise = sum(v * int(_known(victim, name).sum()) for name, v in noise_variance(victim).items())
    return noise > sum(float(value.square().sum()) for value in victim.update.values()) / 2


def weighed(victim: Victim) -> Victim:
    """Return the victim with the trust under which squared errors are −log-likelihoods."""
    variance = noise_variance(victim)
    # Of a tensor without noise among others with it; the weight must stay finite.
    least = EXACT * max(variance.values())
    reliability = {
        name: known / (2 * max(variance[name], least)) ** 0.5
        for name, known in masked(victim).reliability.items()
    }
    return replace(victim, reliability=reliability)


def masked(victim: Victim) -> Victim:
    """Return the victim with a trust of 1 in all entries but those that were withheld."""
    reliability = {}
    for name, value in victim.update.items():
        factor = victim.reliability.get(name)
        if factor is None or factor.numel() == 1:
            reliability[name] = _known(victim, name).any().to(value.dtype).reshape([1] * value.ndim)
        else:
            reliability[name] = torch.where(_known(victim, name), 1.0, factor).to(value.dtype)
    return replace(victim, reliability=reliability)


def posterior(method: Method, prior: Callable[[Tensor], Tensor]) -> Method:
    """Return a method with the negative logarithm of the posterior in place of its objective.

    Its optimiser, start, runs and schedule stay.

    Args:
        prior: images in [0, 1], (R, B, 3, size, size), to −log of their density, shape (R,).
    """

    def of_iterate(iterate: Iterate) -> Tensor:
        return prior(method.pixels.to_pixels(iterate.images))

    # The noise's own share of the distance never falls: no run is near to zero, or stuck.
    return replace(
        method,
        distance=squared_error_at_best_scale,
        prior=of_iterate,
        factors=True,
        patience=None,
        tolerance=0.0,
    )


def image_prior(images: Tensor) -> Callable[[Tensor], Tensor]:
    """Return −log of a normal density fitted to images, up to a constant.

    By probabilistic principal components (Tipping and Bishop 1999): the largest have the variances
    of the images, all other directions the mean variance of the rest.

    Args:
        images: in [0, 1], shape (n, 3, size, size), n ≥ 3.

    Returns:
        A function of images (R, B, 3, size, size) that sums over the B, shape (R,).
    """
    from sklearn.decomposition import PCA

    rows = images.flatten(1).cpu().numpy()
    count = min(COMPONENTS, len(rows) - 2)
    fitted = PCA(count, svd_solver="randomized", random_state=0).fit(rows)
    rest = max(float(fitted.noise_variance_), LEAST_VARIANCE)
    kept = 1 - rest / np.maximum(fitted.explained_variance_, rest)

    def tensor(array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.float32)).to(images.device)

    mean, axes = tensor(fitted.mean_), tensor(fitted.components_ * np.sqrt(kept)[:, None])

    def energy(dummies: Tensor) -> Tensor:
        centred = dummies.flatten(2) - mean.to(dummies.dtype)
        along = centred @ axes.T.to(dummies.dtype)
        return (centred.square().sum((1, 2)) - along.square().sum((1, 2))) / (2 * rest)

    return energy


def _known(victim: Victim, name: str) -> Tensor:
    """Return which entries of a tensor were not withheld, in its shape."""
    value, reliability = victim.update[name], victim.reliability.get(name)
    if reliability is None:
        return torch.ones_like(value, dtype=torch.bool)
    if reliability.numel() == 1:
        # A factor of the whole tensor tells of noise, unless nothing of it was sent.
        return (value != 0).any().expand_as(value)
    return (reliability == 1).expand_as(value) | (value != 0)


COMPONENTS = 64
"""Principal components of the images whose variances are kept."""

LEAST_VARIANCE = 1e-4
"""Of pixels along all other directions: images of 8 bits have no less."""

EXACT = 1e-6
"""Variance, as a share of the largest, of a tensor without noise."""
