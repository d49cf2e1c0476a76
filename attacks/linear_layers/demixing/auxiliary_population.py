"""Individuals of D_aux as a layer sees them, where searches start."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from leakbench.attacks.linear_layers.head import Head


@dataclass(frozen=True)
class AuxiliaryPopulation:
    """Individuals of D_aux at one layer.

    Attributes:
        features: h, shape (n, d).
        labels: shape (n,); random where they are unknown.
        z: of the layer, shape (n, m).
        residuals: errors at the logits, p − e_y, shape (n, K).
        scale: of the rows of the layer's gradient, with which all count alike, shape (m,).
    """

    features: Tensor
    labels: Tensor
    z: Tensor
    residuals: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def restricted_to(self, columns: Tensor) -> AuxiliaryPopulation:
        """Return them with only some entries of their features."""
        return replace(self, features=self.features[:, columns])


def population_of(head: Head, features: Tensor, labels: Tensor) -> AuxiliaryPopulation:
    """Return individuals of D_aux as the first layer sees them.

    Args:
        features: shape (n, d).
        labels: shape (n,); −1 where unknown, to be replaced by random ones.
    """
    device = head.first.weight.device
    features, labels = features.to(device).double(), labels.to(device)
    z, _ = head.forward(features)
    draw = torch.Generator().manual_seed(0)
    drawn = torch.randint(head.classes, labels.shape, generator=draw).to(device)
    known = torch.where(labels < 0, drawn, labels)
    own = head.targets[known]
    return AuxiliaryPopulation(
        features=features.float(),
        labels=known,
        z=z.float(),
        residuals=head.residuals(z, own).float(),
        scale=_row_scale(head, z.float().double(), own),
    )


def _row_scale(head: Head, z: Tensor, targets: Tensor) -> Tensor:
    """Return what makes all rows of the layer's gradient count alike on D_aux, shape (m,)."""
    size = head.errors(z, targets).square().mean(0).sqrt()
    return 1 / size.clamp_min(LEAST_ROW * size.max())


LEAST_ROW = 1e-6
"""Least length, relative to the longest, as which a row is scaled: classes that are hardly ever
predicted tell as much as others, to the update's rounding."""
