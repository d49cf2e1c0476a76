"""Markdown tables, and Markdown in which texts of others stay texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pandas as pd


def markdown_table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    """Return a Markdown table, with `|` escaped and line breaks in cells replaced by spaces."""
    cells = [[" ".join(text.replace("|", "\\|").split()) for text in row] for row in rows]
    frame = pd.DataFrame(cells, columns=pd.Index(columns), dtype=str)
    return str(frame.to_markdown(index=False, disable_numparse=True))


def one_line(text: str) -> str:
    """Return a text as one line, so that it begins no paragraph, heading or list of its own."""
    return " ".join(text.split())


def harmless(markdown: str) -> str:
    r"""Return Markdown in which texts of records and plugins are no HTML, link or image.

    Every report passes through here as a whole, since its texts come from many places.

    >>> print(harmless("<b> [x](javascript:y) \x1b[31m"))
    &lt;b> [x]\(javascript:y) �[31m
    """
    escaped = markdown.replace("<", "&lt;").replace("](", "]\\(").replace("]:", "]\\:")
    return printable(escaped)


def printable(text: str) -> str:
    """Return a text without the control characters by which it could command a terminal."""
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", "�", text)
