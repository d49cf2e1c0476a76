"""Outputs of the models that a server deploys, on victims' images."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from leakbench.base.errors import UsageError
from leakbench.threat.attack import Attack, Progress
from leakbench.threat.server import Server


def serve(
    attack: Attack, server: Server, batches: Sequence[Tensor], progress: Progress
) -> list[dict[str, Tensor]]:
    """Return the outputs of the attack's deployed models for each victim batch.

    A copy in evaluation mode processes each individual alone, so that the attack's own model cannot
    store an image, and only K numbers per individual are returned.

    Args:
        server: the granted knowledge.
        batches: images in [0, 1], shape (B, 3, size, size) each.

    Returns:
        For each batch, model → outputs, shape (B, K).

    Raises:
        UsageError: a model returns anything but K finite numbers for an image.
    """
    models = {name: copy.deepcopy(m).eval() for name, m in attack.deploy(server, progress).items()}

    def output_of(name: str, image: Tensor) -> Tensor:
        with torch.no_grad():
            output = models[name](image)
        if tuple(output.shape) != (1, server.classes) or not bool(output.isfinite().all()):
            raise UsageError(
                f"attack {attack.name!r} deploys a model {name!r} that answers an image with shape "
                f"{tuple(output.shape)} or with NaN or infinity; it must return {server.classes} "
                f"finite numbers, one for each class"
            )
        return output  # type: ignore[no-any-return]

    return [
        {name: torch.cat([output_of(name, image[None]) for image in images]) for name in models}
        for images in batches
    ]
