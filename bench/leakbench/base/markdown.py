"""Markdown tables, and Markdown in which texts of others stay texts."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence


def markdown_table(
    rows: Sequence[Sequence[str]], columns: Sequence[str], padded: bool = True
) -> str:
    """Return a Markdown table, with `|` escaped and line breaks in cells replaced by spaces.

    Args:
        padded: whether columns are aligned in the text too; the rendered table is the same.

    >>> print(markdown_table([["ig", "72.8 [68.2, 77.4]"]], ["attack", "gender"]))
    | attack   | gender            |
    |:---------|:------------------|
    | ig       | 72.8 [68.2, 77.4] |
    """
    cells = [[" ".join(text.replace("|", "\\|").split()) for text in row] for row in rows]
    widths = [_width(heading) + 2 if padded else 0 for heading in columns]
    for row in cells if padded else ():
        widths = [max(pair) for pair in zip(widths, map(_width, row), strict=True)]
    colon = ":" if cells else "-"
    lines = [_line(columns, widths), f"|{'|'.join(f'{colon:-<{w + 2}}' for w in widths)}|"]
    return "\n".join([*lines, *(_line(row, widths) for row in cells)])


def _line(texts: Sequence[str], widths: Sequence[int]) -> str:
    """Return a row of a table, its texts padded to the widths of their columns."""
    padded = (
        text + " " * (width - _width(text)) for text, width in zip(texts, widths, strict=True)
    )
    return f"| {' | '.join(padded)} |"


def _width(text: str) -> int:
    """Return how many columns of a terminal a text takes, of which East Asian letters take two."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


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
