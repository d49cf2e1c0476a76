"""Facts about drawing individuals of D_aux: which ones, and how much is looked at for it."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import Tensor

from leakbench.threat import server
from leakbench.threat.server import Auxiliary


def auxiliary(labels: Tensor) -> Auxiliary:
    count = len(labels)
    return Auxiliary(torch.zeros(count, 3, 1, 1), labels, {}, torch.arange(count))


def drawn_by_counting_all(labels: Tensor, wanted: list[int], seed: int) -> list[int]:
    """The rule with every count looked at: of those who fit, the first taken least often."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    taken: Counter[int] = Counter()
    orders: dict[tuple[int, int], list[int]] = {}
    rows = []
    for label in wanted:
        fitting = [row for row in order.tolist() if labels[row] == label] or order.tolist()
        least = min(taken[row] for row in fitting)
        orders.setdefault((label, 0), fitting)
        if (label, least) not in orders:
            again = torch.randperm(len(fitting), generator=generator).tolist()
            orders[label, least] = [fitting[place] for place in again]
        rows.append(next(row for row in orders[label, least] if taken[row] == least))
        taken[rows[-1]] += 1
    return rows


@pytest.mark.parametrize("seed", range(20))
def test_the_one_who_was_taken_least_often_is_drawn(seed: int) -> None:
    # Label 3 nobody has, so that all are drawn from; some labels run out, twice.
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (12,), generator=generator)
    wanted = torch.randint(4, (30,), generator=generator)
    found = auxiliary(labels).draw(wanted, 30, torch.Generator().manual_seed(seed))
    assert found.tolist() == drawn_by_counting_all(labels, wanted.tolist(), seed)


@pytest.mark.parametrize("size", [100, 10_000])
def test_a_draw_looks_at_few_counts_however_large_d_aux_is(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    looked = 0

    class Watched(Counter[int]):
        def __getitem__(self, key: int) -> int:
            nonlocal looked
            looked += 1
            return super().__getitem__(key)

    monkeypatch.setattr(server, "Counter", Watched)
    rows = auxiliary(torch.arange(size) % 2).draw(torch.tensor([0, 1, 0, 1]), 4, torch.Generator())
    assert len(set(rows.tolist())) == 4
    assert looked <= 16
