"""Marks at the values of a table, and what they mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from leakbench.metrics.formatting import MISSING
from leakbench.reports.remarks import FEW_BATCHES

IMPLIED = "†"
"""After a property that the main task's label implies."""

FAILURE = "failed"
"""In place of the number of a cell whose measurement failed."""

DIFFERS = "differs when measured again"
"""After the number of a cell of which `leakbench verify` measured other numbers."""

MEANINGS: Mapping[str, tuple[str, str]] = {
    IMPLIED: (IMPLIED, "the main task's label implies this property"),
    r"\(\d+ batch(es)?\)": (
        "(n batches)",
        f"fewer than {FEW_BATCHES} victim batches, whose interval is less certain than 95 %; a "
        "value without an interval has too few for one",
    ),
    r"\((under )?\d+ % diverged\)": (
        "diverged",
        "the attack itself reports failure on these batches",
    ),
    DIFFERS: (
        DIFFERS,
        "`leakbench verify` measured the cell again, and its numbers are not those of the record",
    ),
    FAILURE: (FAILURE, "the measurement ended in an error"),
    f"^{MISSING}": (MISSING, "not measured, or not defined"),
}
"""Pattern of a mark in the text of a value → the mark, and its meaning."""

BEST = (
    "**Bold**: the best attack of its row; its interval lies above those of all other attacks and "
    "above that of the best baseline with its knowledge."
)


def explained_marks(texts: Iterable[str]) -> str:
    """Return the meanings of the marks in a table's values, each once; empty where there are none.

    >>> explained_marks(["gender†", "50.0 [40.0, 60.0]"])
    "Marks: †: the main task's label implies this property."
    """
    shown = list(dict.fromkeys(texts))
    found = [
        f"{mark}: {meaning}"
        for pattern, (mark, meaning) in MEANINGS.items()
        if any(re.search(pattern, text) for text in shown)
    ]
    return f"Marks: {'; '.join(found)}." if found else ""
