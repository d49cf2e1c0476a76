"""The exception for errors that the user can correct."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class UsageError(Exception):
    """An error that the user can correct: one sentence that names the fault and what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that asks whether a known name was meant; empty if none is near.

    >>> nearest("bugdet", ["budget", "lam"])
    '; did you mean budget?'
    """
    near = get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]}?" if near else ""
