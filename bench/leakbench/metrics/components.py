"""What an estimate varies by: victims, the attack's random numbers, trainings of the shared model.

A cell is measured in several runs: each training of the shared model is attacked with several
seeds, on the same victims. The estimate is the mean over runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from scipy.special import stdtrit

LEVEL = 0.95

Deviation = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Components(BaseModel):
    """Standard deviations of an estimate's sources of variation.

    Attributes:
        victims: of the mean over runs, under other victims (and, with them, other random numbers of
            the attack).
        seeds: of one run, between attack seeds on the same training and victims; None with one.
        trainings: between trainings of the shared model on the same data, without what seeds
            explain; None with one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    victims: Deviation
    seeds: Deviation | None = None
    trainings: Deviation | None = None


@dataclass(frozen=True)
class Spread:
    """How a metric varies between runs.

    Attributes:
        seeds: variance of one run between seeds; None where each training has one run.
        means: variance of the trainings' means, which holds that of seeds; None for one training.
        trainings: how many there are.
        runs: of each training.
    """

    seeds: float | None
    means: float | None
    trainings: int
    runs: int

    @classmethod
    def of(cls, values: NDArray[np.float64], trainings: NDArray[np.int64]) -> Spread:
        """Return the spread of one value per run.

        Args:
            values: shape (runs,).
            trainings: the training of each run, equally many runs each; shape (runs,).
        """
        groups = [values[trainings == number] for number in np.unique(trainings)]
        runs = len(groups[0])
        within = [float(group.var(ddof=1)) for group in groups if len(group) > 1]
        means = np.array([group.mean() for group in groups])
        return cls(
            seeds=float(np.mean(within)) if within else None,
            means=float(means.var(ddof=1)) if len(means) > 1 else None,
            trainings=len(groups),
            runs=runs,
        )

    def components(self, victims: float) -> Components:
        """Return the components, with the standard deviation by victims."""
        trainings = None
        if self.means is not None:
            of_seeds = (self.seeds or 0.0) / self.runs
            trainings = math.sqrt(max(0.0, self.means - of_seeds))
        seeds = None if self.seeds is None else math.sqrt(self.seeds)
        return Components(victims=victims, seeds=seeds, trainings=trainings)


def widened(reach: float, groups: int, spread: Spread) -> float:
    """Return how far an interval reaches to one side, with the variation between trainings.

    Variances of victims and of trainings add up; the quantile is Student's with the degrees of
    freedom of Satterthwaite 1946 (An approximate distribution of estimates of variance components,
    Biometrics Bulletin 2(6)), since three trainings say little of how much trainings vary.

    Args:
        reach: of the interval by victims, at least 0.
        groups: of victims that were resampled, at least 2.

    >>> alone = Spread.of(np.array([0.5, 0.5]), np.array([0, 0]))
    >>> widened(0.05, 32, alone)
    0.05
    >>> round(widened(0.05, 32, Spread.of(np.array([0.5, 0.52, 0.54]), np.arange(3))), 3)
    0.056
    """
    if spread.means is None:
        return reach
    of_victims = (reach / _quantile(groups - 1)) ** 2
    of_trainings = spread.means / spread.trainings
    total = of_victims + of_trainings
    if total == 0:
        return 0.0
    freedom = total**2 / (of_victims**2 / (groups - 1) + of_trainings**2 / (spread.trainings - 1))
    return _quantile(freedom) * math.sqrt(total)


def _quantile(freedom: float) -> float:
    return float(stdtrit(freedom, (1 + LEVEL) / 2))
