"""The user's model with people that fit it: inputs, pixels, logits, labels and what is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from torch import nn
from torch.export import ExportedProgram

from leakbench.auditing.channels import in_models_channels
from leakbench.auditing.client_loss import Criterion
from leakbench.auditing.client_targets import Targets, with_targets
from leakbench.auditing.copied_model import unwrapped
from leakbench.auditing.labelled_images import LabelledImages, check_images, kind_of
from leakbench.auditing.model_outputs import returning_logits
from leakbench.auditing.model_splitting import PixelScale, logits_of
from leakbench.auditing.several_inputs import as_one_input
from leakbench.auditing.trained_parts import frozen_as_sent
from leakbench.auditing.training import FederatedTraining, Training
from leakbench.auditing.updates import CapturedUpdate
from leakbench.base.errors import UsageError

EXAMPLES = 3
"""Images of D_aux that the model is traced with."""


@dataclass(frozen=True)
class PixelNumbers:
    """With which clients scale pixels; empty where they do not.

    Attributes:
        mean, deviation: one for each channel, or one for all.
    """

    mean: Sequence[float]
    deviation: Sequence[float]


@dataclass(frozen=True)
class FittedModel:
    """A model, and people that fit it.

    Attributes:
        model: the user's own, which takes one tensor and returns logits alone.
        auxiliary, truth: D_aux and the truth, with numbers for labels.
        training: with images as the model takes them.
        targets: how labels enter the loss.
        scale: of pixels; None if the model takes them in [0, 1].
        notes: what was changed or assumed, a sentence each.
    """

    model: nn.Module | ExportedProgram
    auxiliary: LabelledImages
    truth: LabelledImages | None
    training: Training | FederatedTraining | None
    targets: Targets
    scale: PixelScale | None
    notes: tuple[str, ...]


def fit_together(
    model: nn.Module | ExportedProgram,
    auxiliary: LabelledImages,
    truth: LabelledImages | None,
    training: Training | FederatedTraining | None,
    pixels: PixelNumbers,
    logits: str | None,
    criterion: Criterion,
    captured: Sequence[CapturedUpdate],
) -> FittedModel:
    """Return the user's model with people that fit it.

    Args:
        auxiliary, truth: D_aux and the truth, as they are given.
        logits: the name of the logits in the model's output, see `returning_logits`.
        criterion: the clients' loss.
        captured: updates, which show what clients train.

    Raises:
        UsageError: inputs, pixels, logits, loss or labels do not fit.
    """
    model, auxiliary, truth = as_one_input(model, auxiliary, truth)
    auxiliary = check_images(auxiliary, "D_aux")
    truth = None if truth is None else check_images(truth, "the truth")
    model = unwrapped(model) if isinstance(model, nn.Module) else model
    model = frozen_as_sent(model, captured)
    numbers = len(pixels.mean), len(pixels.deviation)
    auxiliary, truth, training, grey_note = in_models_channels(
        model, auxiliary, truth, training, numbers
    )
    scale = _scale(pixels.mean, pixels.deviation, auxiliary)
    examples = auxiliary.images[:EXAMPLES]
    scaled = examples if scale is None else scale(examples)
    model = returning_logits(model, scaled, logits)
    targets, auxiliary, truth = with_targets(criterion, logits_of(model, scaled), auxiliary, truth)
    loss_note = "" if targets.loss.is_plain else f"Clients compute {targets.loss.in_words}."
    notes = tuple(filter(None, (grey_note, loss_note, targets.note)))
    return FittedModel(model, auxiliary, truth, training, targets, scale, notes)


def _scale(
    mean: Sequence[float], deviation: Sequence[float], example: LabelledImages
) -> PixelScale | None:
    if not mean and not deviation:
        return None
    if kind_of(example.images) != "images":
        raise UsageError(
            f"pixel_mean and pixel_deviation scale images, not {kind_of(example.images)}; give "
            f"them as the model takes them"
        )
    channels = example.images.shape[1]
    means, deviations = tuple(mean) or (0.0,), tuple(deviation) or (1.0,)
    for argument, given in (("pixel_mean", means), ("pixel_deviation", deviations)):
        if len(given) not in (1, channels):
            raise UsageError(
                f"{argument} has {len(given)} numbers, but images have {channels} channels; give "
                f"one for all, or one for each"
            )
        wrong = [number for number in given if not isfinite(number)]
        if wrong:
            raise UsageError(f"{argument} holds {wrong[0]}; give finite numbers")
    if any(number <= 0 for number in deviations):
        raise UsageError("pixel_deviation must be above 0")
    return PixelScale(means, deviations)
