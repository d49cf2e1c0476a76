"""Quantised updates in closed form."""

from __future__ import annotations

import pytest
import torch

from clients import client, constant_update, defense
from leakbench.federation.defenses.quantise import rounded, sign_of


def test_one_bit_is_the_sign_times_the_mean_magnitude() -> None:
    made = defense("quantise", bits=1).protect(
        constant_update(torch.tensor([[3.0, -1.0], [2.0, -2.0]]))
    )
    assert made(client(1))["w"].tolist() == [[2.0, -2.0], [2.0, -2.0]]


def test_one_bit_cannot_tell_a_zero() -> None:
    value = torch.cat([torch.zeros(10_000), torch.ones(10_000)])
    signs = sign_of(value, torch.Generator().manual_seed(0))
    assert signs.unique().tolist() == [-0.5, 0.5]
    assert (signs[10_000:] == 0.5).all()
    assert (signs[:10_000] > 0).float().mean().item() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("bits", [2, 3, 8])
def test_more_bits_are_evenly_spaced_levels_with_zero_and_both_ends(bits: int) -> None:
    value = torch.linspace(-1, 0.5, 1001)
    levels = 2 ** (bits - 1) - 1
    found = defense("quantise", bits=bits).protect(constant_update(value))(client(1))["w"]
    multiples = found * levels
    torch.testing.assert_close(multiples, multiples.round(), rtol=0, atol=1e-4)
    assert multiples.abs().max().round() == levels
    assert found[0] == -1
    assert ((found - value).abs() <= 1 / levels + 1e-6).all()
    assert torch.equal(rounded(torch.zeros(3), levels, torch.Generator()), torch.zeros(3))


@pytest.mark.parametrize("bits", [2, 4])
def test_rounding_is_unbiased(bits: int) -> None:
    value, draws = torch.tensor([1.0, -0.8, 0.31, -0.04, 0.0]), 20_000
    levels = 2 ** (bits - 1) - 1
    generator = torch.Generator().manual_seed(3)
    mean = torch.stack([rounded(value, levels, generator) for _ in range(draws)]).mean(0)
    # Four standard errors of what varies most, a value halfway between two levels.
    torch.testing.assert_close(mean, value, rtol=0, atol=4 * 0.5 / levels / draws**0.5)


def test_a_smooth_sign_is_near_the_sign_of_large_entries_and_has_a_gradient() -> None:
    runs = torch.tensor([[[5.0, -5.0], [0.0, 5.0]], [[1.0, 1.0], [-1.0, 0.0]]], requires_grad=True)
    smooth = defense("quantise", bits=1).surrogate({"w": runs})["w"]
    assert (smooth.sign() == runs.sign()).all()
    assert smooth[0, 0, 0].item() == pytest.approx(3.75 * 0.82, abs=0.05)
    (slope,) = torch.autograd.grad(smooth[0].sum(), runs)
    assert (slope[0] != 0).all()
    assert (slope[1] == 0).all()
    same = {"w": runs}
    assert defense("quantise", bits=2).surrogate(same) is same


@pytest.mark.parametrize(("bits", "error"), [(4, 0.02), (8, 1e-3)])
def test_the_reliability_of_a_rounded_update_is_its_share_of_signal(
    bits: int, error: float
) -> None:
    value = 2 * torch.rand(50_000, generator=torch.Generator().manual_seed(1)) - 1
    quantise = defense("quantise", bits=bits)
    received = quantise.protect(constant_update(value))(client(1))
    share = value.square().sum() / received["w"].square().sum()
    assert quantise.reliability(received, 1)["w"].item() == pytest.approx(share.item(), abs=error)


def test_a_coarsely_rounded_update_has_some_reliability() -> None:
    """Of a heavy-tailed tensor in two bits most of what is received is rounding."""
    value = torch.randn(50_000, generator=torch.Generator().manual_seed(1)) ** 3
    quantise = defense("quantise", bits=2)
    received = quantise.protect(constant_update(value))(client(1))
    share = (value.square().sum() / received["w"].square().sum()).item()
    assert share < 0.2
    assert 0 < quantise.reliability(received, 1)["w"].item() <= share
