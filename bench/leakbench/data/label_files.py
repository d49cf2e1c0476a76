"""Read the label files of data sets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from leakbench.base.errors import UsageError


def read_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, without blank lines at the end.

    Raises:
        UsageError: the file is missing or is not text.
    """
    try:
        text = path.read_text(encoding="utf-8")
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
