"""Refusal of answers that are none: a plugin's mistakes must not become numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.errors import UsageError
from bench.threat import Inference, Observation, Server


def check_inferences(
    name: str,
    inferences: Sequence[Inference],
    observations: Sequence[Observation],
    server: Server,
) -> None:
    """Refuse answers of the wrong number, shape or range.

    Raises:
        UsageError: names the attack, the field and what is wrong with it.
    """
    if len(inferences) != len(observations):
        raise UsageError(
            f"attack {name!r} returned {len(inferences)} inferences for {len(observations)} "
            f"observations; `infer` must return one for each"
        )
    for inference, observation in zip(inferences, observations, strict=True):
        size = observation.batch_size
        for wanted in server.properties:
            if wanted not in inference.scores:
                raise UsageError(
                    f"attack {name!r} returned no scores for property {wanted!r}; return one "
                    f"probability for each individual"
                )
            scores = inference.scores[wanted]
            _check_tensor(name, f"scores[{wanted!r}]", scores, (size,))
            if bool(((scores < 0) | (scores > 1)).any()):
                raise UsageError(
                    f"attack {name!r} returned scores[{wanted!r}] outside [0, 1]; return "
                    f"probabilities"
                )
        if inference.features is not None:
            width = None if server.auxiliary is None else server.auxiliary.features.shape[1]
            shape = (size, width if width is not None else inference.features.shape[-1])
            _check_tensor(name, "features", inference.features, shape)
        if inference.images is not None:
            _check_tensor(name, "images", inference.images, (size, *server.image_shape))
        if inference.labels is not None:
            _check_tensor(name, "labels", inference.labels, (size,))


def _check_tensor(name: str, field: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(value.shape) != shape:
        raise UsageError(
            f"attack {name!r} returned {field} of shape {tuple(value.shape)}, expected {shape}; "
            f"see `Inference`"
        )
    if not bool(torch.isfinite(value).all()):
        raise UsageError(
            f"attack {name!r} returned NaN or infinity in {field}; report `diverged` and return "
            f"the last finite answer"
        )
