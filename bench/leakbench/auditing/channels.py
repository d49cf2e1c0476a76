"""Grey images for a model of one channel, or repeated for a model of three."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from leakbench.auditing.copied_model import working_copy
from leakbench.auditing.labelled_images import LabelledImages
from leakbench.auditing.part_errors import error_text
from leakbench.auditing.training import FederatedTraining, Training

COLOURS = 3


def as_colours(images: Tensor) -> Tensor:
    """Return images of three equal channels where they have one; others as they are."""
    return images.expand(-1, COLOURS, -1, -1) if images.shape[1] == 1 else images


def in_models_channels(
    model: nn.Module | ExportedProgram,
    auxiliary: LabelledImages,
    truth: LabelledImages | None,
    training: Training | FederatedTraining | None,
    numbers: Sequence[int],
) -> tuple[LabelledImages, LabelledImages | None, Training | FederatedTraining | None, str]:
    """Return images with the channels that the model takes, where they are grey.

    The last part is a sentence on why grey images were repeated; empty where they were not, or
    where others have colours.

    Args:
        auxiliary, truth: D_aux and the truth.
        numbers: of the scale of pixels, how many are given; three mean three channels.
    """
    held = [auxiliary.images] if truth is None else [auxiliary.images, truth.images]
    if isinstance(training, FederatedTraining):
        held += [training.images, training.test_images]
    grey = [images.ndim == 4 and images.shape[1] == 1 for images in held]
    if not any(grey):
        return auxiliary, truth, training, ""
    note = ""
    if all(grey) and COLOURS not in numbers:
        refused = _error(model, held[0][:2])
        if refused is None:
            return auxiliary, truth, training, ""
        if _error(model, as_colours(held[0][:2])) is not None:
            # The model fails on both: its own images are those to complain about.
            return auxiliary, truth, training, ""
        note = (
            f"Grey images are given to the model three times, as colours: of one channel it does "
            f"not take them ({error_text(refused)})."
        )
    if isinstance(training, FederatedTraining):
        images, tested = as_colours(training.images), as_colours(training.test_images)
        training = replace(training, images=images, test_images=tested)
    auxiliary = replace(auxiliary, images=as_colours(auxiliary.images))
    truth = None if truth is None else replace(truth, images=as_colours(truth.images))
    return auxiliary, truth, training, note


def _error(model: nn.Module | ExportedProgram, images: Tensor) -> Exception | None:
    """Return what a model raises for some images; None if it computes something of them."""
    whole = working_copy(model) if isinstance(model, nn.Module) else model.module()
    try:
        with torch.no_grad():
            whole(images)
    except Exception as error:  # The user's code may raise anything; the caller says it.
        return error
    return None
