"""A part of a suite's cells, for clusters that hand out numbers."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from leakbench.base.errors import UsageError
from leakbench.experiments.suite import SuiteEntry


@dataclass(frozen=True)
class Shard:
    """Part `number` of `total`, from 1 on."""

    number: int
    total: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Return the shard that a text like `2/8` names.

        Raises:
            UsageError: it is none.

        >>> Shard.parse("2/8")
        Shard(number=2, total=8)
        """
        match = re.fullmatch(r"(\d+)/(\d+)", text)
        if not match or not 1 <= int(match[1]) <= int(match[2]):
            raise UsageError(f"--shard {text!r} is no part of a whole; take I/N, from 1/N to N/N")
        return cls(int(match[1]), int(match[2]))

    def of(self, cells: Sequence[SuiteEntry]) -> list[SuiteEntry]:
        """Return the cells of this part; each cell is in one part.

        Parts are about equal in work, and the same whatever is measured already.
        """
        load = [0.0] * self.total
        chosen = []
        for entry in sorted(cells, key=lambda each: (-each.resolved.work, each.key)):
            lightest = load.index(min(load))
            load[lightest] += entry.resolved.work
            if lightest == self.number - 1:
                chosen.append(entry)
        keys = {entry.key for entry in chosen}
        return [entry for entry in cells if entry.key in keys]
