"""Search for masks in a column space alone, by its sparse vectors.

The positions of one image see nearly the same, so that their masks differ in few channels: the
difference of their x, which share r, is among the sparsest vectors of the space, and so is an x of
few active channels. A difference and one of its masks make the other. Where neither is known, the
difference itself tells entries of both. From a mask that is known, the sign of every entry is known
by which another differs.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.convolutional_ends.found import FoundColumns
from leakbench.attacks.convolutional_ends.mask_differences import (
    ALIKE,
    ZERO,
    Difference,
    difference_of,
    masks_of,
)
from leakbench.attacks.convolutional_ends.masked_vectors import (
    TINY,
    Sought,
    nearest_residuals,
    take,
)
from leakbench.attacks.convolutional_ends.sparsest import sparsest


class SparseVectors:
    """Volleys of minimisations, each with a coefficient of the space held at 1.

    Args:
        sought: what is searched for.
        found: takes what is found; no later minimisation can end at it, or at a difference.
        seed: of the coefficients.
    """

    def __init__(self, sought: Sought, found: FoundColumns, seed: int) -> None:
        self.sought, self.found = sought, found
        self.activation = sought.activation.to(sought.basis)
        self.generator = torch.Generator().manual_seed(seed)
        length = sought.basis.norm(dim=1)
        self._channels = (length > LEAST_LENGTH * length.max()).nonzero().flatten()
        self._known = sought.basis.new_empty(len(sought.basis), 0)
        self._differences = self._known
        self._followed = 0

    def search(self, wanted: int, volleys: int) -> None:
        """Search until so many columns are found, or none in some volleys."""
        idle = 0
        for number in range(volleys):
            before = len(self.found)
            signed = number % 2 and (before or self._sign_is_known)
            vectors = self._signed_volley() if signed else self._volley()
            if vectors.shape[1]:
                vectors = vectors / vectors.abs().amax(0).clamp_min(TINY)
                self._take_masks(vectors)
                self._follow(vectors)
                self._known = torch.cat([self._known, vectors], dim=1)
                self._take_both(vectors)
            idle = 0 if len(self.found) > before else idle + 1
            if len(self.found) >= wanted or idle >= PATIENCE:
                break

    def _volley(self) -> Tensor:
        """Return sparse vectors of the space, shape (m, n)."""
        held, _ = self._held(torch.cat([self.found.vectors, self._differences], dim=1))
        if not len(held):
            return self._known[:, :0]
        # Masks are exact only after they are refined: single precision will do.
        return sparsest(self.sought.basis.float(), held.float()).to(held)

    @property
    def _sign_is_known(self) -> bool:
        """Whether all x are 0 or have the sign of one vector: with two classes, all share r."""
        return self.sought.directions.shape[1] == 1 and not self.activation.slope.any()

    def _signed_volley(self) -> Tensor:
        """Take masks near those that are found, or near none; return the differences, (m, n).

        A channel that is active can only leave a mask, and others can only join it: so the sign of
        every entry of the difference is known.
        """
        held, channels = self._held(self.found.vectors)
        if not len(held):
            return self._known[:, :0]
        mask, direction = self._origins(len(held))
        joins = torch.where(mask, -direction, direction) * (1 - self.activation.slope)[:, None]
        # What is held at 1 changes the channel that it is of in the right way.
        held = held * joins[channels, torch.arange(len(held))].sign()[:, None]
        basis = self.sought.basis.float()
        vectors = sparsest(basis, held.float(), joins.float()).to(held)
        share = vectors / torch.where(joins == 0, torch.inf, joins)
        active = mask ^ (share > share.amax(0) / 2)
        self._take(active, self.activation.derivative(active) * direction)
        return vectors

    def _origins(self, count: int) -> tuple[Tensor, Tensor]:
        """Return masks that are found, and their W_oᵀ r, shape (m, n) each.

        Where the sign of x is known, every other one is a mask of no channel, whose x is 0.
        """
        numbers = torch.randint(max(1, len(self.found)), (count,), generator=self.generator)
        none = torch.arange(count) % 2 == 0 if len(self.found) else torch.ones(count).bool()
        if not self._sign_is_known:
            none[:] = False
        known = self.found.active.new_zeros(len(self.sought.directions), count)
        residuals = self.found.residuals.new_ones(count, self.sought.directions.shape[1])
        known[:, ~none] = self.found.active[:, numbers[~none]]
        residuals[~none] = self.found.residuals[numbers[~none]]
        return known, self.sought.directions @ residuals.mT

    def _held(self, known: Tensor) -> tuple[Tensor, Tensor]:
        """Return linear forms of coefficients, shape (n, rank), and the channels they are of, (n,).

        Args:
            known: vectors of length 1 of which the forms are 0, shape (m, k).
        """
        basis = self.sought.basis
        drawn = torch.randperm(len(self._channels), generator=self.generator)[:AT_ONCE]
        channels = self._channels[drawn]
        held = basis[channels]
        if known.shape[1]:
            length = held.norm(dim=1)
            coordinates, values, _ = torch.linalg.svd(basis.mT @ known, full_matrices=False)
            coordinates = coordinates[:, values > DEPENDENT]
            held = held - (held @ coordinates) @ coordinates.mT
            left = held.norm(dim=1) > LEAST_LEFT * length
            held, channels = held[left], channels[left]
        return held, channels

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

    def _take_both(self, vectors: Tensor) -> None:
        """Take the masks of differences of which neither is known."""
        differences = [
            each
            for vector in vectors.mT
            if (each := difference_of(vector, self.sought)) is not None
        ]
        for first in range(0, len(differences), TOGETHER):
            some = [each for each in differences[first : first + TOGETHER] if self._is_new(each)]
            if some:
                active, direction = masks_of(some, self.sought)
                self._take(active, self.activation.derivative(active) * direction)
                self._follow(vectors[:, :0])
        if differences:
            new = functional.normalize(torch.stack([each.vector for each in differences], 1), dim=0)
            self._differences = torch.cat([self._differences, new], dim=1)

    def _is_new(self, difference: Difference) -> bool:
        """Whether a difference is none of columns that are found."""
        if not len(self.found):
            return True
        vector = difference.vector[:, None]
        shares = torch.linalg.lstsq(self.found.vectors, vector).solution
        left = vector - self.found.vectors @ shares
        return bool(left.norm() > ALIKE * vector.norm())

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


AT_ONCE = 32
"""Minimisations of a volley."""

PATIENCE = 8
"""Volleys without a new column after which the search ends."""

TOGETHER = 4
"""Differences whose masks are sought at once: those of one image make each other's."""

DEPENDENT = 1e-3
"""Singular value of vectors of length 1 below which they are dependent."""

LEAST_LENGTH = 1e-6
"""Relative length below which a channel is in no vector of the space."""

LEAST_LEFT = 0.05
"""Part of a linear form that must be left without what is found."""
