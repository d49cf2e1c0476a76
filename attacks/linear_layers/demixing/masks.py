"""Masks of active units as candidates: refined, tested, and repaired by the features they make."""

from __future__ import annotations

import torch
from torch import Tensor

from leakbench.attacks.linear_layers.demixing.candidates import Candidates
from leakbench.attacks.linear_layers.demixing.masked_space import MaskedSpace, refine, repair
from leakbench.attacks.linear_layers.demixing.recovered import NOISE_MARGIN, SPARE_UNITS


def take_masks(active: Tensor, space: MaskedSpace, candidates: Candidates) -> Tensor:
    """Refine masks, take those in the space as candidates, and return which, shape (n,).

    Args:
        active: units of each mask, shape (m, n).
    """
    vectors, masks, distances = refine(active, space)
    tolerances = RIGHT + NOISE_MARGIN * space.noise_sensitivity(vectors)
    tolerances = tolerances.clamp_max(PROMISING)
    # Masks of few units, or none, fit anywhere.
    right = (distances < tolerances) & (masks.sum(0) > SPARE_UNITS)
    candidates.add(vectors[:, right], distances[right], tolerances[right])
    return right


def repair_masks(space: MaskedSpace, candidates: Candidates) -> None:
    """Repair masks by the features that all candidates make, while some are not certified.

    On a unit where W_oᵀ r is nearly 0, x does not tell whether it is active; z does.
    """
    for _ in range(REPAIRS):
        individuals = candidates.individuals
        if individuals is None or len(candidates) < space.rank:
            return
        if bool(individuals.certified.all()):
            return
        columns = next(candidates.choices())
        extended = torch.linalg.pinv(columns) @ space.gradient
        factor = extended[:, -1:]
        features = extended[:, :-1] / torch.where(factor == 0, 1.0, factor)
        active = (candidates.head.first.forward(features) > 0).mT
        vectors, distances = repair(active, space)
        right = (distances < RIGHT) & (active.sum(0) > SPARE_UNITS)
        tolerances = torch.full_like(distances[right], RIGHT)
        candidates.add(vectors[:, right], distances[right], tolerances)


PROMISING = 0.05
"""Relative distance from the space up to which a vector is refined."""

RIGHT = 1e-3
"""Relative distance from the space up to which a refined vector is taken for an x_i."""

REPAIRS = 3
"""Times that masks and features are computed from each other."""
