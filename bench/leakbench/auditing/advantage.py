"""How far an attack is above the blind control, on the same individuals."""

from __future__ import annotations

from collections.abc import Sequence

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
    blind: Sequence[AttackResult],
    standardise: Standardisation,
    seed: int,
) -> dict[str, Estimate]:
    """Return, by property, an attack's balanced accuracy less the blind control's.

    The interval is that of the difference: both answer for the same individuals, so that much of
    the uncertainty cancels.

    Args:
        results, blind: of the attack and of the control, for each batch.
        standardise: features, by which individuals are matched.
    """
    if not truths:
        return {}
    both = [Matched.of(truths, answers, standardise) for answers in (results, blind)]
    groupings = groupings_of(truths)
    bootstrap_seed = seed_for("bootstrap", seed) % 2**32
    found = {}
    for name in truths[0].properties:
        present = torch.cat([truth.properties[name] for truth in truths]).numpy()
        own, control = (answers.scores[name] for answers in both)

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
