"""The distortion of the victims' updates by a defense, and its utility cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from leakbench.base.seeds import seed_for
from leakbench.evaluation.preparation import (
    EvaluationContext,
    hits_of_model,
    labelled_victims,
    model_for_utility,
)
from leakbench.experiments.cell import Setup, utility_setups
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.federation.client import Update
from leakbench.federation.defense import Defense
from leakbench.metrics.estimates import Bootstrap, Estimate, Groups, groups_of
from leakbench.records.record import DefenseMetrics


def defense_metrics(
    resolved: ResolvedCell,
    distortions: NDArray[np.float64],
    trainings: Groups,
    context: EvaluationContext,
    on_status: Callable[[str], None],
) -> DefenseMetrics:
    """Return a defense's distortion, and the accuracy of a model that is trained under it here.

    Args:
        resolved: the cell, with its defense.
        distortions: `distortion` of the update of each victim batch, shape (runs, batches).
        trainings: the training of the shared model of each run, shape (runs,).
        on_status: called with a short description of each long step.
    """
    seed = seed_for("bootstrap", context.setup.seed) % 2**32
    defense, protocol = resolved.defense, resolved.protocol
    utility, lost = _utility(defense, context, on_status, seed)
    sizes = [len(rows) for rows in context.split.clients]
    # Of the client with the least data, whose individuals are sampled the most often.
    smallest = min(sizes)
    sampled = min(1.0, context.setup.client_batch / smallest)
    delta = 1 / smallest
    uses = 1 if protocol is None else protocol.uses
    epsilon = defense.epsilon(sampled, context.setup.rounds, delta, uses)
    return DefenseMetrics(
        distortion=Bootstrap([np.arange(distortions.shape[1])], seed, trainings).mean(distortions),
        utility=utility,
        utility_lost=lost,
        epsilon=epsilon,
        delta=None if epsilon is None else delta,
    )


def _utility(
    defense: Defense, context: EvaluationContext, on_status: Callable[[str], None], seed: int
) -> tuple[Estimate, Estimate]:
    """Return the accuracy under a defense, and by how much it is below that without.

    Both are means over pairs of trainings. The two of a pair start from the same weights, take
    their batches in the same order, and are tested on the same images: so the difference varies far
    less than each of them.
    """
    setups = utility_setups(context.setup)
    victims = labelled_victims(context.individuals, context.split, context.device)

    def hits(setup: Setup, under: Defense | None) -> Tensor:
        return hits_of_model(model_for_utility(setup, under, context, on_status), *victims)

    pairs = [[hits(setup, under) for under in (defense, None)] for setup in setups]
    defended, undefended = (
        torch.stack(each).cpu().double().numpy() for each in zip(*pairs, strict=True)
    )
    identities = np.array(context.individuals.people[context.split.victims])
    by_identity = Bootstrap([groups_of(identities)], seed, np.arange(len(setups)))
    return by_identity.mean(defended), by_identity.mean(undefended - defended)


def distortion(sent: Update, plain: Update) -> float:
    """Return ‖sent − plain‖ / ‖plain‖, with all parameters as one vector.

    Args:
        sent: the update as the server receives it.
        plain: the update without the defense.

    >>> from torch import tensor
    >>> distortion({"w": tensor([3.0, 1.0])}, {"w": tensor([3.0, 4.0])})
    0.6
    """
    difference = sum(float((sent[name] - plain[name]).double().square().sum()) for name in plain)
    norm = sum(float(value.double().square().sum()) for value in plain.values())
    return float(np.sqrt(difference / norm)) if norm else float(difference > 0)
