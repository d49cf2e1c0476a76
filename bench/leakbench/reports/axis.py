"""A linear axis of a chart, with ticks at round numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tick:
    """A labelled position on an axis."""

    at: float
    label: str


class Axis:
    """A linear axis over values and zero, with ticks at round numbers."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        """Lay values, and 0, on the positions from `start` to `end`."""
        self._start, self._end = start, end
        least, most = min(0.0, *values), max(0.0, *values)
        self._step = _round_step((most - least) / 5)
        self._low = math.floor(least / self._step) * self._step
        self._high = max(math.ceil(most / self._step) * self._step, self._low + self._step)

    def at(self, value: float) -> float:
        """Return the position of a value."""
        share = (value - self._low) / (self._high - self._low)
        return round(self._start + share * (self._end - self._start), 1)

    def ticks(self) -> tuple[Tick, ...]:
        """Return the ticks, from the least."""
        count = round((self._high - self._low) / self._step)
        values = [self._low + number * self._step for number in range(count + 1)]
        return tuple(Tick(self.at(value), f"{value:g}") for value in values)


def _round_step(rough: float) -> float:
    """Return the next of 1, 2, 5, 10, … above a number.

    >>> _round_step(0.3), _round_step(7.0)
    (0.5, 10.0)
    """
    if rough <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
