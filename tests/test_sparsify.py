"""Which entries of an update sparsification keeps."""

from __future__ import annotations

from math import ceil

import pytest
import torch

from clients import client, constant_update, defense, flat, sent
from leakbench.federation.client import gradient
from leakbench.federation.defenses.sparsify import ZERO_RELIABILITY

FRACTIONS = [0.5, 0.1, 0.07, 0.01, 1e-9]


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_the_largest_entries_of_each_tensor_are_kept_and_no_others(fraction: float) -> None:
    plain = gradient(client(2))
    update = sent(client(2), "sparsify", fraction=fraction)
    for name, value in plain.items():
        flattened, kept = value.flatten(), update[name].flatten()
        count = max(1, ceil(round(fraction * value.numel(), 6)))
        threshold = flattened.abs().sort(descending=True).values[count - 1]
        if threshold > 0:
            assert int((kept != 0).sum()) == count
        assert torch.equal(kept[kept != 0], flattened[kept != 0])
        assert (flattened[kept == 0].abs() <= threshold).all()
        assert (flattened[kept != 0].abs() >= threshold).all()


@pytest.mark.parametrize("choice", ["largest", "random"])
@pytest.mark.parametrize(("fraction", "count"), [(0.07, 7), (0.071, 8), (1e-6, 1), (0.99, 99)])
def test_exactly_so_many_are_kept_among_equals(choice: str, fraction: float, count: int) -> None:
    equal = torch.full((10, 10), -2.0)
    made = defense("sparsify", fraction=fraction, choice=choice).protect(constant_update(equal))
    kept = made(client(1))["w"]
    assert int((kept != 0).sum()) == count
    assert kept.unique().tolist() == [-2.0, 0.0]


def test_the_largest_of_all_tensors_together_are_kept() -> None:
    plain = flat(gradient(client(2)))
    kept = flat(sent(client(2), "sparsify", fraction=0.01, scope="global"))
    count = ceil(0.01 * len(plain))
    expected = torch.zeros_like(plain)
    largest = plain.abs().argsort(descending=True)[:count]
    expected[largest] = plain[largest]
    assert torch.equal(kept, expected)


def test_random_entries_differ_between_draws_and_are_evenly_spread() -> None:
    made = defense("sparsify", fraction=0.25, choice="random").protect(
        constant_update(torch.ones(100))
    )
    kept = torch.stack([made(client(1, seed=seed))["w"] for seed in range(400)])
    assert (kept.sum(1) == 25).all()
    assert kept.mean(0).min() > 0.15
    assert kept.mean(0).max() < 0.35


def test_entries_dropped_at_random_have_no_reliability_and_small_ones_little() -> None:
    update = {"w": torch.tensor([[0.0, 2.0], [-1e-9, 0.0]])}
    for choice, zero in (("random", 0.0), ("largest", ZERO_RELIABILITY)):
        reliability = defense("sparsify", fraction=0.5, choice=choice).reliability(update, 1)["w"]
        torch.testing.assert_close(reliability, torch.tensor([[zero, 1], [1, zero]]))
    assert defense("sparsify", fraction=1.0).reliability(update, 1) == {}
