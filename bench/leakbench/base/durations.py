"""Formatting of durations."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Return a number of seconds with units.

    >>> duration(5), duration(200), duration(7500), duration(200_000)
    ('5 s', '3 min 20 s', '2 h 5 min', '2 d 7 h')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"
