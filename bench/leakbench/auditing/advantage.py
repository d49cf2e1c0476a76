"""How far an attack is above the blind control, on the same individuals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from leakbench.auditing.intervals import enough_for_intervals, without_intervals
from leakbench.base.seeds import seed_for
from leakbench.evaluation.scoring import groupings_of, match_all, ordered_scores
from leakbench.metrics import estimates as metrics
from leakbench.metrics.estimates import Estimate
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import GroundTruth


def advantages(
    truths: Sequence[GroundTruth],
    results: Sequence[AttackResult],
    blind: Sequence[AttackResult],
    seed: int,
) -> dict[str, Estimate]:
    """Return, by property, an attack's balanced accuracy less the blind control's.

    The interval is that of the difference: both answer for the same individuals, so that much of
    the uncertainty cancels.

    Args:
        results, blind: of the attack and of the control, for each batch.
    """
    if not truths:
        return {}
    both = [(answers, match_all(truths, answers)[0]) for answers in (results, blind)]
    groupings = groupings_of(truths)
    bootstrap_seed = seed_for("bootstrap", seed) % 2**32
    found = {}
    for name in truths[0].properties:
        present = torch.cat([truth.properties[name] for truth in truths]).numpy()
        own, control = (ordered_scores(answers, orders, name) for answers, orders in both)

        def difference(
            weights: metrics.Weights,
            own: np.ndarray = own,
            control: np.ndarray = control,
            present: np.ndarray = present,
        ) -> metrics.Weights:
            above: metrics.Weights = metrics.balanced_accuracy(
                own, present, weights
            ) - metrics.balanced_accuracy(control, present, weights)
            return above

        found[name] = metrics.estimate(difference, groupings, bootstrap_seed)
    return found if enough_for_intervals(truths) else without_intervals(found)
