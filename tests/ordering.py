"""The order in which tests are handed to worker processes."""

from __future__ import annotations

from itertools import chain

import pytest


def slow_modules_first(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """Return tests in equal shares, one for each worker, each with its slow modules at its front.

    pytest-xdist's `worksteal` gives each worker one stretch of the list, and who has done his takes
    half of what another has left, from its end. So what is taken last is short, and nobody waits
    for a long test. Modules stay whole, for the fixtures that their tests share.
    """
    modules: dict[object, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    slow = [m for m in modules.values() if any(i.get_closest_marker("slow") for i in m)]
    quick = [item for m in modules.values() if m not in slow for item in m]
    shares = [list(chain.from_iterable(slow[number::workers])) for number in range(workers)]
    for share in shares[:-1]:
        missing = max(0, len(items) // workers - len(share))
        share.extend(quick[:missing])
        del quick[:missing]
    return [*chain.from_iterable(shares), *quick]
