"""What a terminal shows while a command loads its modules."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

ERASE_LINE = "\r\x1b[K"


@contextmanager
def loading() -> Iterator[None]:
    """Say on a terminal that the program is being loaded, until the block ends.

    PyTorch takes seconds, more where its files have not been read yet.
    """
    # A dumb terminal, such as an editor's, cannot erase the line again.
    shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
    if shown:
        print("loading leakbench …", end="", file=sys.stderr, flush=True)
    try:
        yield
    finally:
        if shown:
            print(ERASE_LINE, end="", file=sys.stderr, flush=True)
