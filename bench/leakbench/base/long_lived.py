"""Garbage collection where thousands of objects live until the end of a command."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

YOUNG = 50_000
"""New objects until the youngest are visited."""

MIDDLE = 1_000
"""How often these are until those that survived one visit are visited again."""

MIDDLE_WHERE_MEASURED = 20
"""The same for commands that also measure, where what attacks leave must not wait for memory."""

OLD = 100
"""How often these are until all are."""


@contextmanager
def collecting_seldom(middle: int = MIDDLE) -> Iterator[None]:
    """Let the garbage collector run seldom within this context.

    It visits every living object again and again to find cycles that nothing refers to. Commands on
    records keep all of them until they end, and records have no cycles: a quarter of the time of
    large reports went into such visits. Objects in no cycle are freed as always.

    Args:
        middle: how many visits of the youngest objects are followed by one of older ones.
    """
    before = gc.get_threshold()
    gc.set_threshold(YOUNG, middle, OLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)
