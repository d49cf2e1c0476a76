"""Validation of attack results: a plugin's mistakes must not become numbers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from leakbench.base.errors import UsageError
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


def check_results(
    name: str,
    results: Sequence[AttackResult],
    observations: Sequence[Observation],
    server: Server,
) -> None:
    """Refuse results of the wrong number, shape or range.

    Raises:
        UsageError: names the attack, the field and the fault.
    """
    if len(results) != len(observations):
        raise UsageError(
            f"attack {name!r} returned {len(results)} results for {len(observations)} "
            f"observations; `infer` must return one for each"
        )
    for result, observation in zip(results, observations, strict=True):
        if not isinstance(result, AttackResult):
            raise UsageError(f"attack {name!r} returned {result!r}, not an `AttackResult`")
        _check_scores(name, result, observation, server)
        if result.features is not None:
            space = server.feature_space
            width = result.features.shape[-1] if space is None else space.features.shape[1]
            _check_tensor(name, "features", result.features, (observation.batch_size, width))
        if result.images is not None:
            shape = (observation.batch_size, *server.image_shape)
            _check_tensor(name, "images", result.images, shape)
            if result.features is None and observation.batch_size > 1:
                raise UsageError(
                    f"attack {name!r} returned images but no features to tell individuals apart "
                    f"by; return the images' features too"
                )
        for field, told in (("certified", result.certified), ("claimed", result.claimed)):
            if told is None:
                continue
            _check_tensor(name, field, told, (observation.batch_size,))
            if told.dtype != torch.bool or result.features is None:
                raise UsageError(
                    f"attack {name!r} returned `{field}` without features, or not as booleans; "
                    f"return one boolean for each row of `features`"
                )
        if result.membership is not None:
            if observation.candidates is None:
                raise UsageError(
                    f"attack {name!r} returned `membership`, but the observation has no "
                    f"candidates; require `Knowledge.CANDIDATES`"
                )
            candidates = len(observation.candidates)
            _check_tensor(name, "membership", result.membership, (candidates,))
        if result.labels is not None:
            _check_labels(name, result.labels, observation.batch_size, server.classes)


def _check_scores(
    name: str, result: AttackResult, observation: Observation, server: Server
) -> None:
    for wanted in server.properties:
        if wanted not in result.scores:
            raise UsageError(
                f"attack {name!r} returned no scores for property {wanted!r}; return one "
                f"probability for each individual"
            )
        scores = result.scores[wanted]
        _check_tensor(name, f"scores[{wanted!r}]", scores, (observation.batch_size,))
        if bool(((scores < 0) | (scores > 1)).any()):
            raise UsageError(
                f"attack {name!r} returned scores[{wanted!r}] outside [0, 1]; return probabilities"
            )
        distinguishable = result.features is not None or observation.outputs is not None
        if not distinguishable and bool((scores != scores[0]).any()):
            raise UsageError(
                f"attack {name!r} returned different scores[{wanted!r}] within a batch but no "
                f"features to tell individuals apart by; return features, or one score for all"
            )


def _check_labels(name: str, labels: Tensor, size: int, classes: int) -> None:
    _check_tensor(name, "labels", labels, (size,))
    if labels.is_floating_point() or bool(((labels < 0) | (labels >= classes)).any()):
        raise UsageError(
            f"attack {name!r} returned labels that are not classes; return integers from 0 to "
            f"{classes - 1}"
        )


def _check_tensor(name: str, field: str, value: object, shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor):
        raise UsageError(
            f"attack {name!r} returned {field} as {type(value).__name__}; return a tensor"
        )
    if tuple(value.shape) != shape:
        raise UsageError(
            f"attack {name!r} returned {field} of shape {tuple(value.shape)}, expected {shape}; "
            f"see `AttackResult`"
        )
    if not bool(torch.isfinite(value).all()):
        raise UsageError(
            f"attack {name!r} returned NaN or infinity in {field}; report `diverged` and return "
            f"the last finite answer"
        )
