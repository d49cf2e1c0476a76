"""Read the label files of data sets."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from leakbench.base.errors import UsageError
from leakbench.base.files import read_regular


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, without its byte order mark and blank lines at the end.

    Raises:
        UsageError: the file is missing or is not text.
    """
    try:
        text = read_regular(path).decode("utf-8-sig")
    except FileNotFoundError:
        raise UsageError(f"label file {path} not found; get it from the data set's site") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"label file {path} cannot be read ({error})") from error
    yield from text.rstrip().splitlines()


def read_rows(path: Path, fields: int, separator: str | None = None) -> Iterator[list[str]]:
    """Yield the fields of each line, split at `separator` or at whitespace.

    Raises:
        UsageError: the file is missing, or a line has a different number of fields.
    """
    for number, line in enumerate(read_lines(path), start=1):
        row = line.split(separator)
        if len(row) != fields:
            raise UsageError(
                f"{path} line {number}: expected {fields} fields, found {len(row)}; "
                f"get the official file"
            )
        yield row


def whole_number(text: str) -> int | None:
    """Return the number from 0 that a text writes in decimal, None for any other text.

    Numbers of more than 18 digits are none: they count nothing, and Python refuses to read those of
    thousands of digits.

    >>> whole_number("12"), whole_number("1_2"), whole_number("9" * 5000)
    (12, None, None)
    """
    return int(text) if re.fullmatch(r"[0-9]{1,18}", text) else None
