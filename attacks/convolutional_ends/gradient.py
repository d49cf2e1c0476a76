"""The spaces of one victim batch at a convolutional end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from math import sqrt

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.convolutional_ends.convolution import sent_gradient
from leakbench.attacks.convolutional_ends.end import ConvolutionalEnd
from leakbench.attacks.convolutional_ends.masked_vectors import TINY, Sought
from leakbench.attacks.convolutional_ends.search import AffineSpace
from leakbench.attacks.demixable_ends.calls import double
from leakbench.attacks.linear_layers.demixing.deflated_subspace import deflated_subspace
from leakbench.attacks.linear_layers.demixing.gradient_space import (
    GradientSpace,
    rank_of,
    space_of,
)
from leakbench.attacks.linear_layers.demixing.observed_gradient import ObservedGradient
from leakbench.attacks.linear_layers.demixing.recovered import NOISE_MARGIN
from leakbench.metrics.standardisation import Standardisation


@dataclass(frozen=True)
class PositionGradient:
    """One victim batch: its gradient at the convolution, and that of the output layer.

    Attributes:
        end: of the model.
        update: finite.
        individuals: B.
        space: of the convolution's gradient, in which each position counts as an individual.
        residuals: Q of the space of the r_i, orthonormal, shape (K, q).
        directions: W_oᵀ Q, rows scaled, shape (m, q).
        output: gradient of the output layer's [W_o, b_o], shape (K, m + 1).
        precision: the unit of the last place of the update's numbers.
        standardise: by D_aux's features.
        deviations: of z at D_aux's positions, shape (m,).
        misfit: root mean square error of entries of the gradient that were computed, not sent.
    """

    end: ConvolutionalEnd
    update: Mapping[str, Tensor]
    individuals: int
    space: GradientSpace
    residuals: Tensor
    directions: Tensor
    output: Tensor
    precision: float
    standardise: Standardisation
    deviations: Tensor
    misfit: float = 0.0

    @property
    def is_searchable(self) -> bool:
        """Whether there are more equations than unknowns for one position."""
        unknown = self.space.rank + self.directions.shape[1] + SPARE
        return unknown < self.space.units and bool((self.output != 0).any())

    @cached_property
    def layer(self) -> Tensor:
        """[W, b] on the row space: z of the a in it, shape (m, rank)."""
        own = self.end.convolution
        return torch.cat([own.weight, own.bias[:, None]], dim=1) @ self.space.rows

    @cached_property
    def noise_along_weights(self) -> tuple[Tensor, float]:
        """Standard deviations of the update's noise, as far as it is seen.

        Returns:
            Those of E [W_c, b_c] for a noise E in a row of the gradient, shape (m,), and that of
            one entry of E.
        """
        space, own = self.space, self.end.convolution
        whole = space.gradient
        noise = whole - (space.basis * space.values) @ space.rows.mT
        rows, columns = (
            size - space.rank for size in (int((space.scale > 0).sum()), noise.shape[1])
        )
        if rows > 0 and columns > 0:
            entry = float(noise.norm()) / sqrt(rows * columns)
        else:
            # Nothing is left in which noise is seen: it is rounding at least.
            entry = self.precision * float(whole.square().mean().sqrt())
        entry = sqrt(entry**2 + self.misfit**2 * float(space.scale.square().mean()))
        weights = torch.cat([own.weight, own.bias[:, None]], dim=1)
        outside = (noise @ weights.mT).square().sum(0) / max(1, rows)
        inside = entry**2 * self.layer.square().sum(1)
        return (outside + inside).sqrt(), entry

    def sought(self, starts: Tensor, seed: int) -> tuple[Sought, Tensor]:
        """Return what is searched for, and the factors of z there, shape (m,).

        With them all channels count alike.

        Args:
            starts: z of positions of D_aux, shape (m, n · P).
            seed: of the labels that individuals of D_aux get there.
        """
        size = starts.std(dim=1)
        factor = 1 / size.clamp_min(LEAST_CHANNEL * size.median().clamp_min(TINY))
        probabilities = self.end.probabilities(self.end.pooled(starts))
        draw = torch.Generator().manual_seed(seed)
        labels = torch.randint(self.end.classes, (len(probabilities),), generator=draw)
        errors = probabilities - functional.one_hot(labels, self.end.classes)
        residuals = (errors @ self.residuals).repeat_interleave(self.end.positions, 0)
        wanted = Sought(
            basis=self.space.basis,
            directions=self.directions,
            activation=self.end.activation.scaled(factor),
            starts=starts * factor[:, None],
            residuals=residuals,
            tolerance=self._tolerance,
        )
        return wanted, factor

    def z_space(self, columns: Tensor, factor: Tensor) -> AffineSpace:
        """Return where z of the other positions is, for columns that are found, (m, n)."""
        subspace = deflated_subspace(self.space, columns)
        layer = factor[:, None] * self.layer
        basis = torch.linalg.qr(layer @ subspace.directions.mT)[0].float()
        return AffineSpace((layer @ subspace.origin).float()[:, None], basis)

    def unexplained(self, columns: Tensor) -> float:
        """Return the largest singular value of what columns (m, n) leave of the gradient.

        Above the update's noise it is the part of positions that are not found.
        """
        if columns.shape[1] == self.space.rank:
            return self.space.noise
        known = torch.linalg.qr(columns)[0]
        whole = self.space.basis * self.space.values
        left = torch.linalg.matrix_norm(whole - known @ (known.mT @ whole), 2)
        return max(self.space.noise, LEFT_MARGIN * float(left))

    def _tolerance(self, vectors: Tensor) -> Tensor:
        noise = NOISE_MARGIN * self.space.noise_sensitivity(vectors)
        return (RIGHT + noise).clamp_max(MOST)


def position_gradient(
    end: ConvolutionalEnd,
    update: Mapping[str, Tensor],
    individuals: int,
    starts: Tensor,
    observed: ObservedGradient | None = None,
) -> PositionGradient:
    """Return the spaces of one victim batch.

    Args:
        update: finite.
        individuals: B.
        starts: z of positions of D_aux, shape (m, n · P).
        observed: the convolution's gradient; by default that of the update.
    """
    precision = end.convolution.precision(update)
    weight, bias = (double(update[name]) for name in end.output.names)
    output = torch.cat([weight, bias[:, None]], dim=1)
    outer, values, _ = torch.linalg.svd(output, full_matrices=False)
    width = min(rank_of(values, precision), individuals, end.classes - 1)
    residuals = outer[:, :width]
    directions = end.output.weight.mT @ residuals
    length = directions.norm(dim=1)
    scale = 1 / length.clamp_min(LEAST_CHANNEL * length.median().clamp_min(TINY))
    observed = observed or sent_gradient(end.convolution, update)
    space = space_of(observed, individuals * end.positions, scale, precision)
    return PositionGradient(
        end=end,
        update=update,
        individuals=individuals,
        space=space,
        residuals=residuals,
        directions=directions * space.scale[:, None],
        output=output,
        precision=precision,
        standardise=Standardisation.of(end.pooled(starts)),
        deviations=starts.std(dim=1),
        misfit=observed.misfit,
    )


LEFT_MARGIN = 10.0
"""How much larger the part of positions that are not found may be than what columns of others leave
of it."""

SPARE = 10
"""Fewest channels that are left to tell the errors of positions from other vectors."""

RIGHT = 1e-3
"""Relative distance from the space up to which a refined vector is taken for an x."""

MOST = 0.05
"""Largest distance that noise may explain."""

LEAST_CHANNEL = 0.1
"""Least length of a channel's direction, relative to the median, as which it is scaled."""
