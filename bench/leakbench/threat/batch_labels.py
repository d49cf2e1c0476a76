"""The main-task labels that attacks and controls take a victim batch to have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from leakbench.threat.knowledge import Knowledge
from leakbench.threat.label_recovery import recover_labels
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server

LabelSource = Literal["known", "counts", "ignored"]
"""Where labels are from: granted, recovered from the update's output layer, or nowhere."""


def knowledge_for_labels(source: LabelSource) -> Knowledge:
    """Return what a plugin must be granted to have labels from this source."""
    needed = {
        "known": Knowledge.LABELS,
        "counts": Knowledge.MODEL | Knowledge.AUXILIARY | Knowledge.UPDATE,
        "ignored": Knowledge.NOTHING,
    }
    return needed[source]


def labels_of_batches(
    server: Server, observations: Sequence[Observation], source: LabelSource
) -> list[Tensor | None]:
    """Return each batch's labels in ascending order, shape (B,), int64.

    Args:
        server: that holds what `knowledge_for_labels` names.
        observations: one for each batch.
        source: with `counts`, labels are recovered as attacks with `labels=counts` do.

    Returns:
        None for every batch if `ignored`; with `counts`, for a batch whose output layer's gradient
        is not finite.
    """
    if source == "ignored":
        return [None] * len(observations)
    if source == "known":
        return [observation.labels for observation in observations]
    expected = expected_predictions(server)
    return [_recovered(server, observation, expected) for observation in observations]


def expected_predictions(server: Server) -> Tensor:
    """Return the shared model's mean prediction on D_aux, shape (K,), a guess of a batch's."""
    assert server.model is not None and server.feature_space is not None
    with torch.no_grad():
        logits: Tensor = server.model.classifier(server.feature_space.features)
    return server.model.loss.probabilities(logits).mean(0)


def _recovered(server: Server, observation: Observation, expected: Tensor) -> Tensor | None:
    assert server.model is not None and observation.update is not None
    update, bias = observation.update, server.model.output_bias
    output_layer = (bias, bias.removesuffix("bias") + "weight")
    if not all(bool(update[name].isfinite().all()) for name in output_layer):
        return None
    return recover_labels("counts", server.model, update, observation.batch_size, expected)
