"""Individuals of D_aux in place of those that an attack cannot find."""

from __future__ import annotations

import torch
from torch import Tensor

from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


def has_finite_update(observation: Observation) -> bool:
    """Return whether all numbers of the update are finite."""
    assert observation.update is not None
    return all(bool(value.isfinite().all()) for value in observation.update.values())


def auxiliary_rows(server: Server, observation: Observation, count: int) -> Tensor:
    """Return rows of random individuals of D_aux, drawn as the blind control draws them.

    Args:
        server: that holds D_aux.
        observation: of the victim batch, whose seed decides.
        count: how many.

    Returns:
        Shape (count,).
    """
    assert server.auxiliary is not None
    generator = torch.Generator().manual_seed(observation.seed)
    return server.auxiliary.draw(None, count, generator)


def auxiliary_features(server: Server, observation: Observation, count: int) -> Tensor:
    """Return the features of `auxiliary_rows`, shape (count, d)."""
    assert server.feature_space is not None
    return server.feature_space.features[auxiliary_rows(server, observation, count)]


def auxiliary_result(
    server: Server, observation: Observation, images: bool = False, certifies: bool = False
) -> AttackResult:
    """Return random individuals of D_aux as the result for an update without information.

    For example one that is not finite. The result is `diverged`.

    Args:
        images: whether to return their images, for attacks that reconstruct images.
        certifies: whether to return that none is certified or claimed, for attacks that certify
            individuals.
    """
    assert server.auxiliary is not None and server.feature_space is not None
    rows = auxiliary_rows(server, observation, observation.batch_size)
    features, labels = server.feature_space.features[rows], server.auxiliary.labels[rows]
    none = torch.zeros_like(rows, dtype=torch.bool) if certifies else None
    return AttackResult(
        scores=server.feature_space.property_model(features),
        features=features,
        images=server.auxiliary.images[rows] if images else None,
        # −1 where D_aux has no labels of the main task.
        labels=labels if bool((labels >= 0).all()) else None,
        certified=none,
        claimed=none,
        diverged=True,
    )
