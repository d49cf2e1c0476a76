"""How far an attack is above the best baseline, on the same individuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from leakbench.base.seeds import seed_for
from leakbench.evaluation.matched import Matched
from leakbench.evaluation.scoring import groupings_of
from leakbench.metrics.classification import balanced_accuracy
from leakbench.metrics.estimates import Estimate, Weights, estimate
from leakbench.metrics.standardisation import Standardisation
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import GroundTruth


def advantages(
    truths: Sequence[GroundTruth],
    results: Sequence[AttackResult],
    baselines: Mapping[str, Sequence[AttackResult]],
    standardise: Standardisation,
    seed: int,
) -> dict[str, Estimate]:
    """Return, by property, an attack's balanced accuracy less that of a baseline.

    The interval is that of the difference: both answer for the same individuals, so that much of
    the uncertainty cancels.

    Args:
        results: of the attack, for each batch.
        baselines: property → the results of its baseline, for each batch; properties without one
            have no advantage.
        standardise: features, by which individuals are matched.
    """
    if not truths:
        return {}
    attack, groupings = Matched.of(truths, results, standardise), groupings_of(truths)
    bootstrap_seed = seed_for("bootstrap", seed) % 2**32
    found = {}
    for name, of_baseline in baselines.items():
        present = torch.cat([truth.properties[name] for truth in truths]).numpy()
        baseline = Matched.of(truths, of_baseline, standardise)
        own, control = attack.scores[name], baseline.scores[name]

        def difference(
            weights: Weights,
            own: np.ndarray = own,
            control: np.ndarray = control,
            present: np.ndarray = present,
        ) -> Weights:
            above: Weights = balanced_accuracy(own, present, weights) - balanced_accuracy(
                control, present, weights
            )
            return above

        found[name] = estimate(difference, groupings, bootstrap_seed)
    return found
