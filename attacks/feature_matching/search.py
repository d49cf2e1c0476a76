"""Attempts at the descent; in each, kinks are softened at first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from leakbench.attacks.feature_matching.descent import descend
from leakbench.attacks.feature_matching.feature_problem import FeatureProblem
from leakbench.attacks.feature_matching.residual import Dummies
from leakbench.attacks.linear_layers.activations import Rectifier


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        dummies: the best ones, R = 1.
        evaluations: of the equations, all runs together.
        attempts: how many there were.
    """

    dummies: Dummies
    evaluations: int
    attempts: int


def search(
    problem: FeatureProblem,
    runs: int,
    attempts: int,
    iterations: int,
    progress: Callable[[float], None],
) -> Found:
    """Return the dummies of least cost.

    Args:
        runs: side by side in each attempt, from starts of their own.
        attempts: at most; each takes twice as many iterations as the one before.
        iterations: of a run in each attempt, on the whole.
    """
    best, least, evaluations, number = problem.start(1), float("inf"), 0, 0
    if not problem.residual.unknowns:  # A single individual is the row space.
        return Found(best, 1, 1)
    for number in range(1, attempts + 1):
        of_attempt = iterations_of(number, attempts, iterations)
        dummies = sharpened(problem, problem.start(runs), of_attempt)
        evaluations += runs * of_attempt
        cost = problem.residual.cost(dummies, None).nan_to_num(torch.inf)
        run = cost.argmin()[None]
        if float(cost[run]) < least:
            best, least = dummies[run], float(cost[run])
        progress(evaluations / (runs * iterations))
        if least < EXACT:
            break
    return Found(best, evaluations, number)


def iterations_of(number: int, attempts: int, iterations: int) -> int:
    """Return how many of the iterations an attempt takes; 1 is the first.

    >>> [iterations_of(number, 3, 71) for number in (1, 2, 3)]
    [10, 20, 41]
    """
    shares = (1 << attempts) - 1
    until, before = ((1 << upto) - 1 for upto in (number, number - 1))
    return until * iterations // shares - before * iterations // shares


def sharpened(problem: FeatureProblem, dummies: Dummies, iterations: int) -> Dummies:
    """Descend from some dummies stage by stage, kinks ever sharper."""
    softest = SOFTEST / problem.population.z_deviation
    stages: list[float | None] = [None]
    if _has_kinks(problem):
        stages = [*(softest * SHARPER**stage for stage in range(SOFT_STAGES)), None]
    done = 0
    for number, sharpness in enumerate(stages, 1):
        until = number * iterations // len(stages)
        softened = None if sharpness is None else dummies.unknowns.new_full((1, 1, 1), sharpness)
        dummies = descend(problem.residual, dummies, softened, until - done)
        done = until
    return dummies


def _has_kinks(problem: FeatureProblem) -> bool:
    layers = problem.residual.head.layers
    return any(isinstance(layer.activation, Rectifier) for layer in layers)


EXACT = 1e-11
"""Cost of dummies that are the individuals, but for rounding."""

SOFT_STAGES = 7
"""Stages in which kinks are softened. After the last of them hardly a unit of an individual is so
near its kink that it would have to be switched."""

SHARPER = 3.0
"""Ratio of the sharpness of successive stages."""

SOFTEST = 3.0
"""Sharpness of the first stage, over the standard deviation of z on D_aux."""
