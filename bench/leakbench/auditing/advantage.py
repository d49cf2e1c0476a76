"""How far an attack is above the best baseline, on the same individuals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from leakbench.base.seeds import seed_for
from leakbench.evaluation.scoring import Run, groupings_of
from leakbench.metrics.classification import balanced_accuracy
from leakbench.metrics.estimates import Estimate, Weights, estimate


def advantages(
    runs: Sequence[Run], baselines: Mapping[str, Sequence[Run]], seed: int
) -> dict[str, Estimate]:
    """Return, by property, an attack's balanced accuracy less that of a baseline.

    Both are means over their runs. The interval is that of the difference: both answer for the same
    individuals, so that much of the uncertainty cancels.

    Args:
        runs: of the attack, on the same truths as those of the baselines.
        baselines: property → the runs of its baseline; properties without one have no advantage.
    """
    if not runs:
        return {}
    truths = runs[0].truths
    groupings, bootstrap_seed = groupings_of(truths), seed_for("bootstrap", seed) % 2**32
    found = {}
    for name, of_baseline in baselines.items():
        present = torch.cat([truth.properties[name] for truth in truths]).numpy()
        own, control = (
            np.stack([run.matched.scores[name] for run in each]) for each in (runs, of_baseline)
        )

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
