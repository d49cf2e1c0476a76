"""The one exception whose message is meant for the user."""

from __future__ import annotations


class UsageError(Exception):
    """Something the user can put right: one sentence that names the thing and the way out.

    The command line prints it without a traceback and exits with code 2.
    """
