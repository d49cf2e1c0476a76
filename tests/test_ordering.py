"""Slow tests are begun first, in every worker process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from ordering import slow_modules_first


@dataclass(frozen=True)
class Item:
    path: str
    number: int
    slow: bool = False

    def get_closest_marker(self, name: str) -> object:
        return self.slow and name == "slow"


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_each_worker_s_share_begins_with_slow_modules(workers: int) -> None:
    """Six modules of ten tests; the last of every second module is slow."""
    items: list[Any] = [
        Item(f"test_{module}.py", number, slow=number == 9 and bool(module % 2))
        for module in range(6)
        for number in range(10)
    ]
    found: list[Any] = slow_modules_first(items, workers)
    assert set(found) == set(items)
    assert len(found) == len(items)
    share = len(items) // workers
    for first in range(0, len(items), share):
        begins = [item.path for item in found[first : first + 10]]
        assert begins == [begins[0]] * 10
        assert int(begins[0][5]) % 2
        assert not any(item.slow for item in found[first + 30 : first + share])


def test_modules_stay_whole_where_all_are_slow() -> None:
    items: list[Any] = [Item(f"test_{n // 4}.py", n, slow=True) for n in range(12)]
    assert slow_modules_first(items, 2) == [*items[:4], *items[8:], *items[4:8]]
