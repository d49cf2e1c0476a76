"""The exception for errors that the user can correct."""

from __future__ import annotations


class UsageError(Exception):
    """An error that the user can correct: one sentence that names the fault and what to do.

    The command line prints it without a traceback and exits with code 2.
    """
