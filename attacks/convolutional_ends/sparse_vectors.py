"""Search for masks in a column space alone, by its sparse vectors.

The positions of one image see nearly the same, so that their masks differ in few channels: the
difference of their x, which share r, is among the sparsest vectors of the space, and so is an x of
few active channels. Minimising Σ |v_c|^½ over the space finds them, by iteratively reweighted least
squares (Chartrand, Yin 2008, Iteratively reweighted algorithms for compressive sensing; that the
sparsest vectors of a span are those it is made of: Spielman, Wang, Wright 2012, Exact recovery of
sparsely-used dictionaries). A difference and one of its masks make the other.
"""

from __future__ import annotations

import torch
from torch import Tensor

from leakbench.attacks.convolutional_ends.found import FoundColumns
from leakbench.attacks.convolutional_ends.masked_vectors import (
    TINY,
    Sought,
    nearest_residuals,
    take,
)


class SparseVectors:
    """Volleys of minimisations, each with a coefficient of the space held at 1.

    Args:
        sought: what is searched for.
        found: takes what is found; no later minimisation can end at it.
        seed: of the coefficients.
    """

    def __init__(self, sought: Sought, found: FoundColumns, seed: int) -> None:
        self.sought, self.found = sought, found
        self.activation = sought.activation.to(sought.basis)
        self.generator = torch.Generator().manual_seed(seed)
        length = sought.basis.norm(dim=1)
        self._channels = (length > LEAST_LENGTH * length.max()).nonzero().flatten()
        self._known = sought.basis.new_empty(len(sought.basis), 0)
        self._followed = 0

    def search(self, wanted: int, volleys: int) -> None:
        """Search until so many columns are found, or none in some volleys."""
        idle = 0
        for _ in range(volleys):
            before = len(self.found)
            vectors = self._volley()
            if vectors.shape[1]:
                self._take_masks(vectors)
                self._follow(vectors)
                self._known = torch.cat([self._known, vectors], dim=1)
            idle = 0 if len(self.found) > before else idle + 1
            if len(self.found) >= wanted or idle >= PATIENCE:
                break

    def _volley(self) -> Tensor:
        """Return sparse vectors of the space, largest entry 1, shape (m, n)."""
        basis = self.sought.basis
        count = len(self._channels)
        drawn = torch.randperm(count, generator=self.generator)[:AT_ONCE]
        held = basis[self._channels[drawn]]
        if len(self.found):
            length = held.norm(dim=1)
            known = torch.linalg.qr(basis.mT @ self.found.vectors)[0]
            held = held - (held @ known) @ known.mT
            held = held[held.norm(dim=1) > LEAST_LEFT * length]
        if not len(held):
            return basis[:, :0]
        # Masks are exact only after they are refined: single precision will do.
        vectors = sparsest(basis.float(), held.float()).to(basis)
        return vectors / vectors.abs().amax(0).clamp_min(TINY)

    def _take_masks(self, vectors: Tensor) -> None:
        """Take those that are an x themselves."""
        active = vectors.abs() > ZERO
        derivative = self.activation.derivative(active)
        r = nearest_residuals(derivative, self.sought.directions, self.sought.basis)
        self._take(active, derivative * (self.sought.directions @ r.mT))

    def _follow(self, vectors: Tensor) -> None:
        """Take the masks that follow from differences and masks that are found, and from these."""
        vectors, start = torch.cat([self._known, vectors], dim=1), self._known.shape[1]
        done = 0
        while done < len(self.found):
            # All masks meet the new vectors, and new masks all vectors.
            first, done = done, len(self.found)
            for number in range(first, done):
                of = vectors[:, start:] if number < self._followed else vectors
                self._take_differing(of, number)
        self._followed = done

    def _take_differing(self, vectors: Tensor, number: int) -> None:
        """Take the masks whose x differs from that of a column by one of the vectors."""
        mask, r = self.found.active[:, number], self.found.residuals[number]
        direction = self.sought.directions @ r
        inside = (vectors.abs() > ZERO) & (direction != 0)[:, None]
        # x_1 − x_2 has the direction's sign where only the first is active, the opposite sign where
        # only the second is.
        signed = torch.where(mask, direction, -direction) * (1 - self.activation.slope)
        share = vectors / torch.where(signed == 0, torch.inf, signed)[:, None]
        count = inside.sum(0)
        mean = torch.where(inside, share, 0.0).sum(0) / count.clamp_min(1)
        off = torch.where(inside, share - mean, 0.0).square().sum(0) / count.clamp_min(1)
        rows = ((off.sqrt() < ALIKE * mean.abs()) & (count > 0)).nonzero().flatten()
        if len(rows):
            active = mask[:, None] ^ inside[:, rows]
            derivative = self.activation.derivative(active)
            self._take(active, derivative * direction[:, None])

    def _take(self, active: Tensor, vectors: Tensor) -> None:
        basis = self.sought.basis
        outside = vectors - basis @ (basis.mT @ vectors)
        take(active, outside.norm(dim=0), vectors.norm(dim=0), self.sought, self.found)


def sparsest(basis: Tensor, held: Tensor) -> Tensor:
    """Return vectors v = U c of small Σ |v_c|^½ for which one linear form of c is 1.

    Args:
        basis: U, orthonormal, shape (m, rank).
        held: the forms, shape (n, rank).

    Returns:
        Shape (m, n).
    """
    eye = torch.eye(basis.shape[1]).to(basis)
    c = held / held.square().sum(1, keepdim=True)
    v = basis @ c.mT
    floor = v.square().mean(0).sqrt()
    for _ in range(ITERATIONS):
        weights = (v.square() + floor.square()) ** (EXPONENT / 2 - 1)
        weights = weights / weights.amax(0)
        normal = torch.stack([basis.mT @ (w[:, None] * basis) for w in weights.mT])
        c = torch.linalg.solve(normal + RIDGE * eye, held[:, :, None])[:, :, 0]
        c = c / (c * held).sum(1, keepdim=True)
        v = basis @ c.mT
        floor = torch.minimum(SHRINK * floor, v.square().mean(0).sqrt())
    return v


AT_ONCE = 32
"""Minimisations of a volley."""

PATIENCE = 8
"""Volleys without a new column after which the search ends."""

ITERATIONS = 15
"""Of a minimisation; the floor below which entries count alike is then 5e-4 of the first one."""

EXPONENT = 0.5
"""Of the entries' absolute values, whose sum is minimised."""

SHRINK = 0.6
"""Factor of the floor from one iteration to the next."""

RIDGE = 1e-7
"""Ridge of the least squares, relative to the largest weight."""

ZERO = 1e-3
"""Below this, relative to the largest, an entry is zero."""

ALIKE = 0.02
"""Relative deviation up to which the entries of a difference agree."""

LEAST_LENGTH = 1e-6
"""Relative length below which a channel is in no vector of the space."""

LEAST_LEFT = 0.05
"""Part of a linear form that must be left without what is found."""
