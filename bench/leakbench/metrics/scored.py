"""What is known of one cell before it is summarised: arrays over runs, individuals and batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leakbench.metrics.classification import Metric
from leakbench.metrics.estimates import Bootstrap, Estimate, Groups

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class BinaryScores:
    """An attack's scores of a yes-or-no question beside the ground truth.

    Attributes:
        scores: the higher, the more likely yes, shape (runs, n).
        present: the ground truth, shape (n,).
        bootstrap: over the same n.
        repeats: rows of `scores` for each run of the bootstrap, one after the other.
    """

    scores: Floats
    present: Booleans
    bootstrap: Bootstrap
    repeats: int = field(default=1, kw_only=True)

    def estimate(self, metric: Metric) -> Estimate:
        """Return the mean of a metric over runs, with its interval."""
        once = np.ones((1, len(self.present)))
        rows = np.array([metric(row, self.present, once)[0] for row in self.scores])
        by_run = rows.reshape(-1, self.repeats).mean(1)
        return self.bootstrap.estimate(
            lambda weights: metric(self.scores, self.present, weights), by_run
        )


@dataclass(frozen=True)
class ScoredProperty(BinaryScores):
    """The scores of one property of all individuals, which are probabilities in [0, 1].

    Attributes:
        batches: the batch of each individual, shape (n,).
        by_batch: the bootstrap over batches, for metrics that have one value per batch.
        in_main_task: whether the main task's label implies the property.
        swapped: the attack's answers for individuals of other batches, several for each run; None
            without features or other batches.
    """

    batches: Groups
    by_batch: Bootstrap
    in_main_task: bool
    swapped: BinaryScores | None = None


@dataclass(frozen=True)
class ScoredCell:
    """All answers of an attack on one cell, compared with the ground truth.

    Attributes:
        properties: by property.
        individuals: the bootstrap over the n individuals.
        cosines: between reconstructed and true standardised features, matched, shape (runs, n);
            None without features.
        swapped_cosines: the same for the attack's features of individuals of other batches, mean
            over several swaps, shape (runs, n); None without features or other batches.
        certified: whether the attack claims to have the feature exactly, shape (runs, n); None
            where it makes no such claims.
        claimed: whether the attack takes the feature for exact, certified or not, shape (runs, n);
            None where it does not tell.
        membership: scores of the candidates; None where the attack gives none.
        images: image metric → one value per individual, shape (runs, n); None without images, and
            without the metrics that could not be computed.
        label_shares: share of each batch's labels that the attack named, shape (runs, batches);
            None where it names none.
        diverged: whether the attack reports failure, shape (runs, batches).
    """

    properties: Mapping[str, ScoredProperty]
    individuals: Bootstrap
    cosines: Floats | None
    swapped_cosines: Floats | None
    certified: Booleans | None
    claimed: Booleans | None
    membership: BinaryScores | None
    images: Mapping[str, Floats] | None
    label_shares: Floats | None
    diverged: Booleans
