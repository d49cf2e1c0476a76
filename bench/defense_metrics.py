"""What a defense changes in the victims' updates, and what it costs the shared model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from bench import metrics
from bench.client import Update
from bench.defense import Defense
from bench.preparation import Prepared, accuracy_under
from bench.seeds import seed_for
from bench.store import DefenseMetrics


def price(
    defense: Defense,
    changes: Sequence[float],
    prepared: Prepared,
    say: Callable[[str], None],
) -> DefenseMetrics:
    """Return what a defense changes, and measure the accuracy of a model trained under it.

    Args:
        changes: `relative_error` of what was sent for each victim batch.
        say: told in a few words what is being done.
    """
    errors = np.array(changes)
    seed = seed_for("bootstrap", prepared.setup.seed) % 2**32
    sizes = [len(rows) for rows in prepared.split.clients]
    # Of the client with the least data, whose individuals are drawn the most often.
    smallest = min(sizes)
    sampled = min(1.0, prepared.setup.client_batch / smallest)
    delta = 1 / smallest
    epsilon = defense.epsilon(sampled, prepared.setup.rounds, delta)
    return DefenseMetrics(
        relative_error=metrics.estimate_mean(errors, [np.arange(len(errors))], seed),
        utility=accuracy_under(defense, prepared, say)["accuracy"],
        epsilon=epsilon,
        delta=None if epsilon is None else delta,
    )


def relative_error(sent: Update, plain: Update) -> float:
    """Return ‖sent − plain‖ / ‖plain‖, over all parameters as one vector.

    >>> from torch import tensor
    >>> relative_error({"w": tensor([3.0, 1.0])}, {"w": tensor([3.0, 4.0])})
    0.6
    """
    difference = sum(float((sent[name] - plain[name]).double().square().sum()) for name in plain)
    norm = sum(float(value.double().square().sum()) for value in plain.values())
    return float(np.sqrt(difference / norm)) if norm else float(difference > 0)
