"""TOML that others wrote: every fault is a ValueError."""

from __future__ import annotations

import tomllib
from typing import Any


def parsed_toml(text: str) -> dict[str, Any]:
    """Return what a TOML text holds.

    Raises:
        ValueError: it is no TOML, is nested too deeply, or holds an integer of more than 64 bits,
            as TOML has none: it could be too long to be written in decimal again.

    >>> parsed_toml("a = 1")
    {'a': 1}
    """
    try:
        found = tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    unseen: list[Any] = [found]
    while unseen:
        value = unseen.pop()
        if isinstance(value, int) and value.bit_length() > 63:
            raise ValueError("it holds an integer of more than 64 bits")
        if isinstance(value, (dict, list)):
            unseen += value.values() if isinstance(value, dict) else value
    return found
