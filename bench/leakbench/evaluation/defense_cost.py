"""What a defense changes in the victims' updates, and what it costs the shared model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from leakbench.base.seeds import seed_for
from leakbench.evaluation.preparation import EvaluationContext, labelled_victims, trained_under
from leakbench.federation.client import Update
from leakbench.federation.defense import Defense
from leakbench.federation.shared_model import main_task_hits
from leakbench.metrics import estimates as metrics
from leakbench.metrics.estimates import Estimate
from leakbench.records.record import DefenseMetrics


def price(
    defense: Defense,
    changes: Sequence[float],
    context: EvaluationContext,
    say: Callable[[str], None],
) -> DefenseMetrics:
    """Return what a defense changes, and measure the accuracy of a model trained under it.

    Args:
        changes: `distortion` of what was sent for each victim batch.
        say: told in a few words what is being done.
    """
    errors = np.array(changes)
    seed = seed_for("bootstrap", context.setup.seed) % 2**32
    utility, lost = _utility(defense, context, say, seed)
    sizes = [len(rows) for rows in context.split.clients]
    # Of the client with the least data, whose individuals are drawn the most often.
    smallest = min(sizes)
    sampled = min(1.0, context.setup.client_batch / smallest)
    delta = 1 / smallest
    epsilon = defense.epsilon(sampled, context.setup.rounds, delta)
    return DefenseMetrics(
        distortion=metrics.estimate_mean(errors, [np.arange(len(errors))], seed),
        utility=utility,
        utility_lost=lost,
        epsilon=epsilon,
        delta=None if epsilon is None else delta,
    )


def _utility(
    defense: Defense, context: EvaluationContext, say: Callable[[str], None], seed: int
) -> tuple[Estimate, Estimate]:
    """Return accuracy under a defense, and what is lost against the shared model's.

    Both answer for the same images, so that much of the doubt falls out of the difference.
    """
    victims = labelled_victims(context.individuals, context.split, context.device)
    defended = main_task_hits(trained_under(defense, context, say), *victims)
    hits, undefended = (each.cpu().double().numpy() for each in (defended, context.hits))
    identities = np.array(context.individuals.identities[context.split.victims])
    people = [metrics.groups_of(identities)]
    return (
        metrics.estimate_mean(hits, people, seed),
        metrics.estimate_mean(undefended - hits, people, seed),
    )


def distortion(sent: Update, plain: Update) -> float:
    """Return ‖sent − plain‖ / ‖plain‖, over all parameters as one vector.

    >>> from torch import tensor
    >>> distortion({"w": tensor([3.0, 1.0])}, {"w": tensor([3.0, 4.0])})
    0.6
    """
    difference = sum(float((sent[name] - plain[name]).double().square().sum()) for name in plain)
    norm = sum(float(value.double().square().sum()) for value in plain.values())
    return float(np.sqrt(difference / norm)) if norm else float(difference > 0)
