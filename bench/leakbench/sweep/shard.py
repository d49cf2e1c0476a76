"""A part of a suite's cells, for the numbered jobs of a cluster's job array."""

from __future__ import annotations

import heapq
import re
from collections.abc import Sequence
from dataclasses import dataclass

from leakbench.base.errors import UsageError
from leakbench.experiments.expansion import SuiteEntry


@dataclass(frozen=True)
class Shard:
    """Part `number` of `total`, numbered from 1."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that a text like `2/8` names.

        Raises:
            UsageError: the text is not of this form, or the number is out of range.

        >>> Shard.parse("2/8")
        Shard(number=2, total=8)
        """
        match = re.fullmatch(r"(\d{1,18})/(\d{1,18})", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--shard {text!r} is not of the form I/N, from 1/N to N/N")
        return cls(int(match[1]), int(match[2]))

    def of(self, cells: Sequence[SuiteEntry]) -> list[SuiteEntry]:
        """Return the cells of this part; each cell is in exactly one part.

        Parts have about equal work, and do not depend on which cells are measured already.
        """
        # Of more parts than cells, only the first ones get any.
        loads = [(0.0, part) for part in range(min(self.total, len(cells)))]
        keys = set()
        for entry in sorted(cells, key=lambda each: (-each.resolved.work, each.key)):
            load, lightest = loads[0]
            heapq.heapreplace(loads, (load + entry.resolved.work, lightest))
            if lightest == self.number - 1:
                keys.add(entry.key)
        return [entry for entry in cells if entry.key in keys]
