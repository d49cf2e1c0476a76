"""breaching 0.1.2 on our models and victims, for tests and benchmarks that hold us against it."""

from __future__ import annotations

import contextlib
import functools
import io
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from leakbench.federation.shared_model import SharedModel

SETUP = {"dtype": torch.float, "device": torch.device("cpu")}


def in_centred_pixels(model: SharedModel) -> nn.Module:
    """The same network on pixels in [-1, 1], with the same parameters in the same order."""
    if isinstance(model.extractor[0], nn.Conv2d):
        return model
    return nn.Sequential(*list(model.extractor)[1:], *model.classifier)


@functools.cache  # Composing it takes longer than a few steps.
def attack_config(preset: str, *overrides: str) -> Any:
    """breaching's configuration of an attack."""
    import breaching

    with contextlib.redirect_stdout(io.StringIO()):
        return breaching.get_attack_config(preset, list(overrides))


def reconstruct(
    model: nn.Module, config: Any, update: dict[str, Tensor], labels: Tensor, start: Tensor
) -> Tensor:
    """What breaching makes of one update, from images in its coordinates and in those."""
    import breaching

    attacker = breaching.attacks.prepare_attack(model, nn.CrossEntropyLoss(), config, SETUP)
    half = (0.5, 0.5, 0.5)
    metadata = SimpleNamespace(shape=start.shape[1:], mean=half, std=half, modality="vision")
    payload = {"parameters": list(model.parameters()), "buffers": [], "metadata": metadata}
    known = {"num_data_points": len(labels), "labels": labels, "local_hyperparams": None}
    shared = {"gradients": list(update.values()), "buffers": None, "metadata": known}
    found, _ = attacker.reconstruct([payload], [shared], {}, initial_data=start)
    return found["data"]
