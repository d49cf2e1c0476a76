"""What is known of one cell before it is summarised: arrays over individuals and batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
        scores: the higher, the more likely yes, shape (n,).
        present: the ground truth, shape (n,).
        bootstrap: over the same n.
    """

    scores: Floats
    present: Booleans
    bootstrap: Bootstrap

    def estimate(self, metric: Metric) -> Estimate:
        """Return a metric of these scores with its interval."""
        return self.bootstrap.estimate(lambda weights: metric(self.scores, self.present, weights))


@dataclass(frozen=True)
class ScoredProperty(BinaryScores):
    """The scores of one property of all individuals, which are probabilities in [0, 1].

    Attributes:
        batches: the batch of each individual, shape (n,).
        by_batch: the bootstrap over batches, for metrics that have one value per batch.
        in_main_task: whether the main task's label implies the property.
    """

    batches: Groups
    by_batch: Bootstrap
    in_main_task: bool


@dataclass(frozen=True)
class ScoredCell:
    """All answers of an attack on one cell, compared with the ground truth.

    Attributes:
        properties: by property.
        individuals: the bootstrap over the n individuals.
        cosines: between reconstructed and true features, matched, shape (n,); None without
            features.
        certified: whether the attack claims to have the feature exactly, shape (n,); None where
            it makes no such claims.
        membership: scores of the candidates; None where the attack gives none.
        images: image metric → one value per individual, shape (n,); None without images, and
            without the metrics that could not be computed.
        label_shares: share of each batch's labels that the attack named; None where it names none.
        diverged: whether the attack reports failure, for each batch.
    """

    properties: Mapping[str, ScoredProperty]
    individuals: Bootstrap
    cosines: Floats | None
    certified: Booleans | None
    membership: BinaryScores | None
    images: Mapping[str, Floats] | None
    label_shares: Floats | None
    diverged: Booleans
