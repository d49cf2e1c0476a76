"""Whether the model that is attacked is the user's: it computes the same logits and gradients."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from leakbench.auditing.client_targets import Targets
from leakbench.auditing.copied_model import working_copy
from leakbench.base.choices import Mode
from leakbench.base.errors import UsageError
from leakbench.base.markdown import one_line
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.client import client_update
from leakbench.federation.shared_model import SharedModel

ROUNDING = 1e-3
"""Relative difference that rounding can explain."""


class AnotherModelError(UsageError):
    """The model that would be attacked is not the one that the user gave."""


def check_same_model(
    own: SharedModel,
    names: Mapping[str, str],
    model: nn.Module | ExportedProgram,
    images: Tensor,
    scaled: Tensor,
    targets: Targets,
    mode: Mode = "eval",
) -> None:
    """Refuse a split model whose logits or gradients are not those of the user's own model.

    Args:
        own: the split model, on the CPU.
        names: parameter of `own` → the user's name for it.
        model: as the user gave it; a copy computes, without any of the audit's changes.
        images: an example batch for `own`, shape (n, channels, height, width).
        scaled: the same batch as the user's model takes it.
        targets: how labels enter the user's own loss.
        mode: in which both are compared.

    Raises:
        AnotherModelError: they differ; the message says where and by how much.
        UsageError: the user's model has no gradient.
    """
    ours = in_mode(own, mode)
    theirs = _reference(model, mode)
    parameters = dict(theirs.named_parameters())
    labels = torch.arange(len(images))
    with torch.no_grad():
        expected, found = theirs(scaled), ours(images)
        if own.loss.link == "softmax":
            # A cross-entropy does not change with what is added to all logits.
            expected, found = expected.log_softmax(-1), found.log_softmax(-1)
    labels = labels % own.loss.classes(expected.shape[-1])
    apart = _distance(found, expected, 0.0) if found.shape == expected.shape else float("inf")
    if not apart <= ROUNDING:
        raise AnotherModelError(
            f"in mode {mode} it computes other logits than your own model (relative difference "
            f"{apart:.2g})"
        )
    sent = {name: parameters[name] for name in names.values()}
    right = _gradients(theirs, sent, scaled, labels, targets)
    try:
        update = client_update(ours, images, labels)
    except RuntimeError as error:
        raise AnotherModelError(
            f"its gradient cannot be computed ({one_line(str(error))[:200]}); freeze "
            f"parameters that the loss does not depend on, with requires_grad_(False)"
        ) from error
    whole = torch.cat([value.flatten() for value in right.values()]).norm().item()
    for ours_name, name in names.items():
        apart = _distance(update[ours_name], right[name], ROUNDING * whole)
        if not apart <= ROUNDING:
            raise AnotherModelError(
                f"in mode {mode} it computes another gradient of {name!r} than your own model "
                f"(relative difference {apart:.2g})"
            )


def _reference(model: nn.Module | ExportedProgram, mode: Mode) -> nn.Module:
    """Return a copy of the user's model in a mode; BatchNorm alone depends on it here."""
    if not isinstance(model, nn.Module):
        return model.module()
    copied = working_copy(model)
    for module in copied.modules():
        if mode == "train" and isinstance(module, _BatchNorm):
            module.train()
    return copied


def _gradients(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    images: Tensor,
    labels: Tensor,
    targets: Targets,
) -> dict[str, Tensor]:
    """Return the gradient of the user's own loss; 0 for what the loss does not depend on.

    Raises:
        UsageError: it cannot be computed.
    """
    leaves = {name: value.detach().requires_grad_() for name, value in parameters.items()}
    compute: Callable[..., Tensor] = functional_call
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            loss = targets.value(compute(model, leaves, (images,)), labels)
            found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    except Exception as error:
        first = one_line(str(error))[:200]
        raise UsageError(
            f"the gradient of your model's loss cannot be computed ({first}); clients could not "
            f"train it either"
        ) from error
    return {
        name: torch.zeros_like(leaf) if value is None else value.detach().to_dense()
        for (name, leaf), value in zip(leaves.items(), found, strict=True)
    }


def _distance(found: Tensor, expected: Tensor, negligible: float) -> float:
    """Return ‖found − expected‖ / ‖expected‖, where differences below `negligible` count as 0."""
    difference = (found.detach() - expected.detach()).double().norm().item()
    norm = expected.double().norm().item()
    if difference <= ROUNDING * negligible:
        return 0.0
    return difference / norm if norm else float("inf")
