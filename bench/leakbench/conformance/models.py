"""Checks of shared models."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from leakbench.base.errors import UsageError
from leakbench.base.markdown import one_line
from leakbench.base.registry import MODELS, Registry
from leakbench.conformance.check import FindingError, NotCheckedError, Trial, checks
from leakbench.conformance.declarations import DECLARATIONS, refuse_empty
from leakbench.conformance.global_state import seeded
from leakbench.federation.shared_model import Architecture, SharedModel

CLASSES, SIZE, INDIVIDUALS = 8, 32, 3


@dataclass(frozen=True)
class ModelTrial(Trial):
    """A model and its device.

    Attributes:
        device: where it computes.
    """

    registry: Registry = field(default=MODELS, init=False)
    device: str = "cpu"

    @property
    def architecture(self) -> Architecture:
        """The architecture with the parameters of its example, its defaults if it has none."""
        return self.built  # type: ignore[no-any-return]

    def model(self, split: str, seed: int = 0, size: int = SIZE) -> SharedModel:
        """Return the untrained model in evaluation mode."""
        with seeded(seed):
            model = self.architecture.build(CLASSES, size, split)
        return model.to(self.device).eval()

    def images(self, size: int = SIZE) -> Tensor:
        """Return random images, always the same."""
        draw = torch.Generator().manual_seed(0)
        return torch.rand(INDIVIDUALS, 3, size, size, generator=draw).to(self.device)

    def each_split(self) -> Iterator[tuple[str, SharedModel]]:
        """Yield every split with the model split there."""
        for split in self.plugin.splits:
            yield split, self.model(split)


def has_a_reference_and_splits(trial: ModelTrial) -> None:
    """A reader needs the publication, an attack the layer where features end."""
    refuse_empty(trial, "reference")
    splits = trial.plugin.splits
    if not isinstance(splits, tuple) or not splits:
        raise FindingError(
            f"{trial} has splits {splits!r}; name at least one layer, in a tuple of strings"
        )


def is_made_of_an_extractor_and_a_classifier(trial: ModelTrial) -> None:
    """Features are (n, d), logits (n, K) and finite, at every split and size."""
    for split in trial.plugin.splits:
        for size in (SIZE, 2 * SIZE):
            model, images = trial.model(split, size=size), trial.images(size)
            if not isinstance(model, SharedModel):
                raise FindingError(f"{trial} builds a {type(model).__name__}; build a SharedModel")
            with torch.no_grad():
                features = model.features(images)
                logits = model(images)
            if features.ndim != 2 or len(features) != INDIVIDUALS:
                raise FindingError(
                    f"{trial} split after {split!r} has features of shape {tuple(features.shape)} "
                    f"for {INDIVIDUALS} images of {size} px; end the extractor with nn.Flatten()"
                )
            if logits.shape != (INDIVIDUALS, CLASSES) or not bool(logits.isfinite().all()):
                raise FindingError(
                    f"{trial} split after {split!r} has logits of shape {tuple(logits.shape)}, or "
                    f"NaN, for {INDIVIDUALS} images of {size} px and {CLASSES} classes; return "
                    f"finite ones of shape ({INDIVIDUALS}, {CLASSES})"
                )


def ends_with_a_linear_layer(trial: ModelTrial) -> None:
    """Labels are recovered from the output layer's gradient, whose bias is the last parameter."""
    for split, model in trial.each_split():
        last = list(model.classifier.modules())[-1]
        if not isinstance(last, nn.Linear) or last.bias is None:
            raise FindingError(
                f"{trial} split after {split!r} ends with {type(last).__name__}; end the "
                f"classifier with nn.Linear(…, classes), with bias"
            )
        names = [name for name, _ in model.named_parameters()]
        of_last = next(name for name, p in model.named_parameters() if p is last.bias)
        if names[-1] != of_last:
            raise FindingError(
                f"{trial} split after {split!r} has {names[-1]!r} as its last parameter; let the "
                f"output layer's bias be the last"
            )


def starts_from_the_seed(trial: ModelTrial) -> None:
    """Initial weights depend on PyTorch's global generator, which the caller seeds."""
    for split in trial.plugin.splits:
        first, again, other = (trial.model(split, seed) for seed in (1, 1, 2))
        if not _same_weights(first, again):
            raise FindingError(
                f"{trial} starts with other weights from the same seed; initialise them with "
                f"PyTorch's functions, without a generator of your own"
            )
        if _same_weights(first, other):
            raise FindingError(
                f"{trial} starts with the same weights from every seed; do not seed inside `build`"
            )


def _same_weights(one: SharedModel, other: SharedModel) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def sees_each_image_by_itself(trial: ModelTrial) -> None:
    """In evaluation mode nothing is random, and one image's logits do not depend on others."""
    for split, model in trial.each_split():
        images = trial.images()
        with torch.no_grad(), seeded(1):
            together = model(images)
        with torch.no_grad(), seeded(2):
            alone = torch.cat([model(image[None]) for image in images])
        if not torch.allclose(together, alone, rtol=1e-4, atol=1e-5):
            raise FindingError(
                f"{trial} split after {split!r} answers an image differently beside others, or "
                f"the second time; let nothing be random or normalise by the batch after `.eval()`"
            )


def can_be_differentiated_twice(trial: ModelTrial) -> None:
    """Gradient matching differentiates a gradient."""
    for split, model in trial.each_split():
        images = trial.images().requires_grad_()
        weights = {name: p.detach().requires_grad_() for name, p in model.named_parameters()}
        labels = torch.arange(INDIVIDUALS, device=trial.device)
        loss = functional.cross_entropy(functional_call(model, weights, (images,)), labels)
        try:
            update = torch.autograd.grad(loss, list(weights.values()), create_graph=True)
            squares = torch.stack([value.square().sum() for value in update])
            (slope,) = torch.autograd.grad(squares.sum(), images)
        except RuntimeError as error:
            raise FindingError(
                f"{trial} split after {split!r} cannot be differentiated twice "
                f"({_short(error)}); use no in-place activation, and let every "
                f"parameter take part"
            ) from None
        if not bool(slope.isfinite().all()) or not bool(slope.any()):
            raise FindingError(
                f"{trial} split after {split!r} has a gradient whose derivative is zero or not "
                f"finite; use differentiable layers"
            )


def follows_its_device(trial: ModelTrial) -> None:
    """All its tensors are parameters or buffers, which `.to(device)` moves."""
    for split, model in trial.each_split():
        moved = model.to("meta")
        try:
            on = moved(trial.images().to("meta")).device.type
        except (RuntimeError, NotImplementedError) as error:
            raise FindingError(
                f"{trial} split after {split!r} has a tensor that stays behind when it is moved "
                f"({_short(error)}); register it as a buffer"
            ) from None
        if on != "meta":
            raise FindingError(
                f"{trial} split after {split!r} computes on {on} after it was moved elsewhere; "
                f"compute on the device of the images"
            )


def can_be_stored(trial: ModelTrial) -> None:
    """Its weights can be written to a file and read back."""
    for split, model in trial.each_split():
        tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
        try:
            again = load(save(tensors))
        except (RuntimeError, ValueError) as error:
            raise FindingError(
                f"{trial} split after {split!r} cannot be stored ({_short(error)}"
                f"); let no two parameters share their memory"
            ) from None
        trial.model(split, seed=1).load_state_dict(again)


def _short(error: Exception) -> str:
    return one_line(str(error))[:120]


def refuses_what_does_not_fit(trial: ModelTrial) -> None:
    """An unknown split is one sentence."""
    if type(trial.architecture).check is Architecture.check:
        raise NotCheckedError("it has the default check")
    try:
        trial.architecture.check(SIZE, "no such place")
    except UsageError:
        return
    raise FindingError(
        f"{trial} accepts a split that it does not have; raise a `UsageError` in `check`, or call "
        f"`super().check(size, split)`"
    )


MODEL_CHECKS = (
    *DECLARATIONS,
    *checks(
        has_a_reference_and_splits,
        is_made_of_an_extractor_and_a_classifier,
        ends_with_a_linear_layer,
        starts_from_the_seed,
        sees_each_image_by_itself,
        can_be_differentiated_twice,
        follows_its_device,
        can_be_stored,
        refuses_what_does_not_fit,
    ),
)
