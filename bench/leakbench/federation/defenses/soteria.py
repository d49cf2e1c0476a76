"""Soteria: prunes the gradient of the weights that read sensitive deep features."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import jvp, vjp, vmap

from leakbench.base.errors import UsageError
from leakbench.base.registry import register_defense
from leakbench.federation.client import Client, Compute, Update
from leakbench.federation.defense import Defense, Stage
from leakbench.federation.defenses.sparsify import count_of
from leakbench.federation.shared_model import SharedModel

Extractor = Callable[[Tensor], Tensor]
"""Images, shape (n, 3, size, size), to features of each independently, shape (n, d)."""

ROWS_AT_ONCE = 16
"""Number of rows of the Jacobian computed together."""


@register_defense("soteria")
@dataclass(frozen=True, kw_only=True)
class Soteria(Defense):
    """Sends no gradient of the weights that read some entries of the deep feature r = E(X).

    The paper sets the r_i with the largest ‖r_i (∂r_i/∂X)⁻¹‖ to zero: relative to their change of
    r, they change the reconstructed image most. As in the authors' code, these are taken as the
    r_i with the smallest ‖∂r_i/∂X‖ / |r_i|, averaged over the batch. Their columns in the weight
    gradient of the classifier's first linear layer are set to zero; other gradients are unchanged.

    Attributes:
        fraction: of the columns that are set to zero, rounded up to a whole number.
        probes: number of random directions to estimate ‖∂r_i/∂X‖, with a relative error of
            1/√(2·probes); 0 computes it exactly, by one backward pass per entry.
    """

    reference: ClassVar[str] = (
        "Sun, Li, Wang, Yang, Li, Chen 2021, Soteria: Provable Defense against Privacy Leakage in "
        "Federated Learning from Representation Perspective (CVPR)"
    )
    example_parameters: ClassVar = {"fraction": 0.5}
    # It reads the images again, so it cannot come after DP-SGD, whose ε would then be invalid.
    stage: ClassVar[Stage] = Stage.GRADIENT

    fraction: Annotated[float, Field(gt=0, le=1)]
    probes: Annotated[int, Field(ge=0)] = 8

    def protect(self, compute: Compute) -> Compute:
        """Return `compute` with the columns of the least sensitive features set to zero."""

        def protected(client: Client) -> Update:
            update = compute(client)
            extractor = copy.deepcopy(client.model.extractor).eval().requires_grad_(False)
            scores = sensitivity(extractor, client.images, self.probes, client.generator)
            name = defended_weight(client.model, len(scores))
            count = count_of(self.fraction, len(scores))
            dropped = scores.topk(count, largest=False, sorted=False).indices
            return update | {name: update[name].index_fill(1, dropped, 0.0)}

        return protected

    def reliability(self, update: Update, individuals: int) -> Mapping[str, Tensor]:  # noqa: ARG002
        """Return zeros for columns of the defended weights that are all zero, ones elsewhere."""
        name = next(n for n, v in update.items() if n.startswith("classifier.") and v.ndim == 2)
        return {name: (update[name] != 0).any(0, keepdim=True).to(update[name].dtype)}


def defended_weight(model: SharedModel, features: int) -> str:
    """Return the name of the weights that read the deep feature.

    Raises:
        UsageError: the classifier does not begin with a linear layer.
    """
    for name, layer in model.classifier.named_modules():
        if isinstance(layer, nn.Linear):
            if layer.in_features == features:
                return f"classifier.{name}.weight"
            break
    raise UsageError(
        f"defense 'soteria' needs a classifier that begins with a linear layer of the {features} "
        f"deep features; choose another model or split"
    )


def sensitivity(
    extractor: Extractor, images: Tensor, probes: int, generator: torch.Generator
) -> Tensor:
    """Return ‖∂r_i/∂X‖ / |r_i| averaged over a batch; 0 where r_i and its Jacobian are 0.

    Args:
        images: shape (B, 3, size, size).
        probes: see `Soteria`.

    Returns:
        Shape (d,).

    Raises:
        UsageError: the inputs are integers.
    """
    if not images.is_floating_point():
        raise UsageError(
            "defense 'soteria' needs the derivative of features by the inputs, which token ids "
            "do not have; choose another defense"
        )
    features = extractor(images)
    norms = (
        estimated_norms(extractor, images, probes, generator)
        if probes
        else jacobian_norms(extractor, images)
    )
    return (norms / features.abs().clamp_min(1e-30)).mean(0)


def jacobian_norms(extractor: Extractor, images: Tensor) -> Tensor:
    """Return ‖∂r_i/∂X‖ for each individual, shape (B, d)."""
    features, pull_back = vjp(extractor, images)[:2]
    rows = torch.eye(features.shape[1], device=features.device)

    def of(row: Tensor) -> Tensor:
        gradient: Tensor = pull_back(row.expand_as(features))[0]
        return gradient.flatten(1).square().sum(1).sqrt()

    norms: Tensor = vmap(of, chunk_size=ROWS_AT_ONCE)(rows)
    return norms.transpose(0, 1)


def estimated_norms(
    extractor: Extractor, images: Tensor, probes: int, generator: torch.Generator
) -> Tensor:
    """Return ‖∂r_i/∂X‖ estimated by E[(∂r_i/∂X · v)²] over random signs v, shape (B, d)."""
    signs = torch.randint(0, 2, (probes, *images.shape), generator=generator)
    directions = (2 * signs - 1).to(images)

    def moved(direction: Tensor) -> Tensor:
        change: Tensor = jvp(extractor, (images,), (direction,))[1]
        return change

    with warnings.catch_warnings():
        # PyTorch warns about its own code at the first forward-mode differentiation.
        warnings.simplefilter("ignore", FutureWarning)
        changes: Tensor = vmap(moved)(directions)
    return changes.square().mean(0).sqrt()
