"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd


def markdown_table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    """Return a Markdown table, with `|` escaped and line breaks in cells replaced by spaces."""
    cells = [[" ".join(text.replace("|", "\\|").split()) for text in row] for row in rows]
    frame = pd.DataFrame(cells, columns=pd.Index(columns), dtype=str)
    return str(frame.to_markdown(index=False, disable_numparse=True))
