"""Defenses at levels that suit the gradients of the audited model."""

from __future__ import annotations

import numpy as np
import torch

from leakbench.auditing.case import Case
from leakbench.base.plugins import PluginSpec
from leakbench.base.seeds import generator_for
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import Client, Update, gradient
from leakbench.threat.observation import GroundTruth

USUAL_DEFENSES = 10
"""How many `default_defenses` returns, at most."""

AGGREGATED = 4
"""Clients whose updates secure aggregation sums."""

CLIPPED_BATCHES = 16
"""Batches of which one individual's gradient each sets the level of clipping."""


def default_defenses(case: Case) -> list[PluginSpec]:
    """Return defenses at levels that suit the gradients of the batches whose truth is known.

    Noise has the norm of the gradient, and ten times that; clipping is at the median norm of an
    individual's gradient, or of a batch's where an individual alone has none, such as of BatchNorm.
    """
    batches = case.known_batches
    gradients = [_gradient(case, batch.truth) for batch in batches]
    entries = sum(value.numel() for value in gradients[0].values())
    norm = float(np.median([_norm(update) for update in gradients]))
    sigma = _two_digits(norm / entries**0.5)
    individuals = [_first_individual(batch.truth) for batch in batches[:CLIPPED_BATCHES]]
    try:
        clip = float(np.median([_norm(_gradient(case, truth)) for truth in individuals]))
    except (ValueError, RuntimeError):
        clip = norm
    clip = _two_digits(clip)
    defenses = [
        PluginSpec("gaussian", {"sigma": sigma}),
        PluginSpec("gaussian", {"sigma": _two_digits(10 * sigma)}),
        PluginSpec("dp_sgd", {"clip": clip, "noise": 0.1}),
        PluginSpec("dp_sgd", {"clip": clip, "noise": 1.0}),
        PluginSpec("sparsify", {"fraction": 0.1}),
        PluginSpec("sparsify", {"fraction": 0.01}),
        PluginSpec("quantise", {"bits": 1}),
        PluginSpec("soteria", {"fraction": 0.5}),
        PluginSpec("local_steps", {"epochs": 4}),
    ]
    if len(batches) >= 2 * AGGREGATED:
        defenses.append(PluginSpec("secure_aggregation", {"of": AGGREGATED}))
    return defenses


def _first_individual(truth: GroundTruth) -> GroundTruth:
    return GroundTruth(
        images=truth.images[:1],
        labels=truth.labels[:1],
        features=truth.features[:1],
        properties={name: present[:1] for name, present in truth.properties.items()},
        identities=truth.identities[:1],
    )


def _gradient(case: Case, truth: GroundTruth) -> Update:
    model = in_mode(case.model, case.threat.mode)
    return gradient(Client(model, truth.images, truth.labels, 0.1, generator_for("level")))


def _norm(update: Update) -> float:
    return float(torch.cat([value.flatten() for value in update.values()]).norm())


def _two_digits(number: float) -> float:
    """Return a number rounded to two significant digits; 1 for 0.

    >>> _two_digits(0.01234)
    0.012
    """
    return float(f"{number:.1e}") if number else 1.0
