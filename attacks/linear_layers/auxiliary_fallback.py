"""Individuals of D_aux in place of those who are not found."""

from __future__ import annotations

import torch
from torch import Tensor

from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


def stand_ins(server: Server, observation: Observation, count: int) -> Tensor:
    """Return features of random individuals of D_aux, drawn as the blind control draws anybody.

    Args:
        server: that holds D_aux and the model.
        observation: of the victim batch, whose seed decides.
        count: how many.

    Returns:
        Shape (count, d).
    """
    assert server.auxiliary is not None and server.feature_space is not None
    generator = torch.Generator().manual_seed(observation.seed)
    return server.feature_space.features[server.auxiliary.draw(None, count, generator)]


def without_update(server: Server, observation: Observation) -> AttackResult:
    """Return what is answered where the update says nothing, such as one that is not finite."""
    assert server.feature_space is not None
    features = stand_ins(server, observation, observation.batch_size)
    scores = server.feature_space.property_model(features)
    return AttackResult(scores=scores, features=features, diverged=True)
