"""Errors of one part of an audit, which do not end the others."""

from __future__ import annotations

from leakbench.base.errors import UsageError
from leakbench.base.markdown import one_line

INTERRUPTED = "the audit was interrupted before it finished"
"""Why a part was not run after Ctrl-C."""


def error_text(error: Exception, length: int = 200) -> str:
    """Return an error as part of a sentence.

    >>> error_text(ValueError("too  long"))
    'ValueError: too long'
    """
    text = one_line(str(error))
    if isinstance(error, UsageError):
        return text
    shown = text if len(text) <= length else f"{text[:length]} …"
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__
