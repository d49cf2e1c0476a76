"""Facts about two masks of which only the difference is known."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.convolutional_ends.kinked import Kinked
from leakbench.attacks.convolutional_ends.mask_differences import difference_of, masks_of
from leakbench.attacks.convolutional_ends.masked_vectors import Sought
from leakbench.attacks.convolutional_ends.sparsest import sparsest, sparsest_with

CHANNELS, POSITIONS = 400, 40


def planted(residuals: int, slope: float, seed: int = 0) -> tuple[Sought, Tensor, Tensor]:
    """A space of masked vectors, the first two of which differ in few channels and share r.

    Returns:
        The space; masks, shape (m, n); r, shape (n, q).
    """
    torch.manual_seed(seed)
    directions = torch.randn(CHANNELS, residuals, dtype=torch.float64)
    active = torch.rand(CHANNELS, POSITIONS) < 0.2
    changed = torch.randperm(CHANNELS)[:60]
    active[:, 1] = active[:, 0]
    active[changed, 1] = ~active[changed, 0]
    r = torch.randn(POSITIONS, residuals, dtype=torch.float64)
    r[1] = r[0]
    zeros = torch.zeros(CHANNELS, dtype=torch.float64)
    activation = Kinked(zeros + slope, zeros + torch.inf)
    x = activation.derivative(active) * (directions @ r.mT)
    sought = Sought(
        basis=torch.linalg.qr(x)[0],
        directions=directions,
        activation=activation,
        starts=zeros[:, None],
        residuals=r,
        tolerance=lambda vectors: vectors.new_full((vectors.shape[1],), 1e-3),
    )
    return sought, active, r


@pytest.mark.parametrize("residuals", [1, 3, 7])
@pytest.mark.parametrize("slope", [0.0, 0.2])
def test_a_difference_makes_both_masks(residuals: int, slope: float) -> None:
    sought, active, r = planted(residuals, slope)
    x = sought.activation.derivative(active) * (sought.directions @ r.mT)
    # A search knows it up to a factor.
    difference = difference_of(-3.0 * (x[:, 0] - x[:, 1]), sought)
    assert difference is not None
    assert torch.equal(difference.inside, active[:, 0] ^ active[:, 1])
    cosine = functional.cosine_similarity(difference.direction, sought.directions @ r[0], dim=0)
    assert float(cosine.abs()) == pytest.approx(1.0, abs=1e-9)
    masks, _ = masks_of([difference], sought)
    assert {tuple(mask.tolist()) for mask in masks.mT} == {
        tuple(mask.tolist()) for mask in active[:, :2].mT
    }


def test_other_vectors_are_no_differences() -> None:
    sought, active, r = planted(residuals=3, slope=0.0)
    x = active * (sought.directions @ r.mT)
    # Individuals of different r; a sum of many; too few entries for r; nothing.
    assert difference_of(x[:, 2] - x[:, 3], sought) is None
    assert difference_of(x.sum(1), sought) is None
    few = torch.zeros(CHANNELS, dtype=torch.float64)
    few[:6] = (sought.directions @ r[0])[:6]
    assert difference_of(few, sought) is None
    assert difference_of(torch.zeros(CHANNELS, dtype=torch.float64), sought) is None


def test_the_sparsest_vector_with_known_entries_is_found() -> None:
    torch.manual_seed(0)
    sparse = torch.zeros(200, 1)
    sparse[::8] = 1 + torch.rand(25, 1)
    offset = torch.randn(200, 1)
    # Vectors in the space are sparse but for an offset, which is known.
    basis = torch.linalg.qr(torch.cat([sparse + offset, torch.randn(200, 50)], dim=1))[0]
    known = (torch.arange(200) < 40)[:, None]
    wanted = torch.where(known, sparse + offset, offset)
    found = sparsest_with(basis, known, wanted, torch.ones_like(wanted))
    torch.testing.assert_close(found, sparse + offset, rtol=1e-2, atol=1e-2)


def test_a_known_sign_finds_what_is_not_sparse_enough_otherwise() -> None:
    torch.manual_seed(0)
    planted = (torch.rand(200, 1) < 0.3).float()
    basis = torch.linalg.qr(torch.cat([planted, torch.randn(200, 50)], dim=1))[0]
    active = int(planted[:, 0].argmax())
    held = basis[active : active + 1]
    without = sparsest(basis, held)
    assert float((without / without[active] - planted).abs().max()) > 0.1
    found = sparsest(basis, held, torch.ones_like(planted))
    torch.testing.assert_close(found / found[active], planted, rtol=0.0, atol=0.05)
