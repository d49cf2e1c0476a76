"""How often the package's lines run, which tells linear work from more at small sizes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import leakbench

HERE = str(Path(leakbench.__file__).parent)

FEW = 120
"""Lines by which counts may differ from a straight line."""


def lines_run(work: Callable[[], object]) -> Counter[CodeType]:
    """Return function of the package → how many of its lines ran, each pass of a loop counted."""
    counts: Counter[CodeType] = Counter()

    def local(frame: FrameType, event: str, _: Any) -> Any:
        counts[frame.f_code] += event == "line"
        return local

    def entered(frame: FrameType, event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename.startswith(HERE) else None

    before = sys.gettrace()
    sys.settrace(entered)
    try:
        work()
    finally:
        sys.settrace(before)
    return counts


def more_than_linear(counts: Sequence[Counter[CodeType]]) -> dict[str, tuple[int, ...]]:
    """Return functions whose count grows faster than the size → their counts.

    Args:
        counts: at three sizes, each twice the one before it.
    """
    first, second, third = counts
    return {
        f"{code.co_filename}:{code.co_firstlineno} {code.co_qualname}": tuple(
            each[code] for each in counts
        )
        for code in third
        if third[code] - second[code] > 2.2 * (second[code] - first[code]) + FEW
    }
