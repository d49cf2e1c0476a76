"""Metrics of binary decisions and scores, for many bootstrap resamples at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from leakbench.metrics.estimates import Groups, Weights, ratio

Metric = Callable[[NDArray[np.float64], NDArray[np.bool_], Weights], Weights]
"""Scores (n,) or (runs, n), ground truth (n,) and weights (resamples, n) to values (resamples,).

With several runs the value is the mean over runs.
"""


def accuracy(scores: NDArray[np.float64], present: NDArray[np.bool_], weights: Weights) -> Weights:
    """Return the weighted share of correct decisions at threshold ½.

    Args:
        scores: probabilities of presence, shape (n,); or of several runs, shape (runs, n).
        present: the ground truth, shape (n,).
        weights: how often each individual counts, shape (resamples, n).

    Returns:
        The mean over runs, shape (resamples,), as for the other metrics; NaN where undefined.

    >>> accuracy(np.array([.9, .2, .8]), np.array([True, False, False]), np.ones((1, 3)))
    array([0.66666667])
    """
    correct = np.atleast_2d((scores >= 0.5) == present).mean(0)
    return ratio(weights @ correct, weights.sum(1))


def balanced_accuracy(
    scores: NDArray[np.float64], present: NDArray[np.bool_], weights: Weights
) -> Weights:
    """Return the mean of sensitivity and specificity at threshold ½; a constant answer gives ½.

    >>> balanced_accuracy(np.array([.9, .2, .8]), np.array([True, False, False]), np.ones((1, 3)))
    array([0.75])
    """
    positive = np.atleast_2d(scores >= 0.5).mean(0)
    sensitivity = ratio(weights @ (positive * present), weights @ present)
    specificity = ratio(weights @ ((1 - positive) * ~present), weights @ ~present)
    return (sensitivity + specificity) / 2


def auc(scores: NDArray[np.float64], present: NDArray[np.bool_], weights: Weights) -> Weights:
    """Return the probability that a present individual scores above an absent one, ties half.

    >>> auc(np.array([.9, .2, .8]), np.array([True, False, False]), np.ones((1, 3)))
    array([1.])
    """
    runs = np.atleast_2d(scores)
    above = np.zeros((int(present.sum()), int((~present).sum())))
    for of in runs:
        above += (np.sign(of[present][:, None] - of[~present][None]) / 2 + 0.5) / len(runs)
    pairs = np.einsum(
        "rp,pn,rn->r", weights[:, present], above, weights[:, ~present], optimize=True
    )
    return ratio(pairs, (weights @ present) * (weights @ ~present))


def tpr_at_fpr(rate: float) -> Metric:
    """Return the metric TPR at a false positive rate of at most `rate`.

    Individuals with equal scores are above a threshold together, or below it together.

    >>> tpr_at_fpr(0.5)(np.array([3., 2., 1., 0.]), np.array([1, 0, 1, 0], bool), np.ones((1, 4)))
    array([1.])
    >>> tpr_at_fpr(0.01)(np.array([3., 2., 1., 0.]), np.array([1, 0, 1, 0], bool), np.ones((1, 4)))
    array([0.5])
    """

    def metric(
        scores: NDArray[np.float64], present: NDArray[np.bool_], weights: Weights
    ) -> Weights:
        of_runs = [_tpr_at_fpr(rate, of, present, weights) for of in np.atleast_2d(scores)]
        mean: Weights = np.mean(of_runs, axis=0)
        return mean

    return metric


def _tpr_at_fpr(
    rate: float, scores: NDArray[np.float64], present: NDArray[np.bool_], weights: Weights
) -> Weights:
    order = np.argsort(-scores, kind="stable")
    last = np.append(np.diff(scores[order]) != 0, True)
    hits = (weights * present)[:, order].cumsum(1)
    false = (weights * ~present)[:, order].cumsum(1)
    allowed = last & (false <= rate * false[:, -1:])
    most = np.where(allowed, hits, 0.0).max(1)
    return ratio(np.where(false[:, -1] > 0, most, np.nan), hits[:, -1])


def brier_score(
    scores: NDArray[np.float64], present: NDArray[np.bool_], weights: Weights
) -> Weights:
    """Return the weighted mean squared error of scores as probabilities of presence.

    A proper scoring rule (Brier 1950, Verification of forecasts expressed in terms of probability,
    Monthly Weather Review 78(1)): it is least in expectation if the scores are the true
    probabilities. A score of ½ for all gives ¼.

    >>> brier_score(np.array([.9, .5, .5]), np.array([True, False, True]), np.ones((1, 3)))
    array([0.17])
    """
    error = np.atleast_2d((scores - present) ** 2).mean(0)
    return ratio(weights @ error, weights.sum(1))


def count_error(
    scores: NDArray[np.float64], present: NDArray[np.bool_], batches: Groups
) -> NDArray[np.float64]:
    """Return |inferred − true| number of individuals with the property over B, for each batch.

    Independent of the matching within a batch.

    Args:
        scores: of n individuals in each run, shape (runs, n).
        present: shape (n,).
        batches: the batch of each individual, shape (n,).

    Returns:
        Shape (runs, batches).

    >>> present = np.array([True, False, False, False, True])
    >>> count_error(np.array([[.9, .2, .8, .7, .3]]), present, np.array([0, 0, 1, 1, 2]))
    array([[0., 1., 1.]])
    """
    true = np.bincount(batches, weights=present)
    inferred = np.array([np.bincount(batches, weights=of >= 0.5) for of in scores])
    errors: NDArray[np.float64] = np.abs(inferred - true) / np.bincount(batches)
    return errors
