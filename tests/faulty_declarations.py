"""Plugins of any kind whose declaration breaks a rule that all kinds share."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


def faulty_declarations(sound: type) -> list[tuple[str, type, str]]:
    """Return the name of each such rule, a plugin that breaks it, and what the finding says.

    Args:
        sound: a plugin of the kind, from which the others inherit.
    """

    class NoDataclass(sound):
        """Forgot its decorator."""

    @dataclass(frozen=True, kw_only=True)
    class Undocumented(sound):
        """Does not describe its parameter."""

        depth: int = 1

    @dataclass(frozen=True, kw_only=True)
    class NoJSON(sound):
        """Has a path.

        Attributes:
            weights: where they are.
        """

        weights: Path = Path("weights")

    return [
        ("is a frozen dataclass", NoDataclass, r"is no dataclass; put @dataclass"),
        ("documents every parameter", Undocumented, r"its parameter 'depth' is; add"),
        ("has parameters that a record can hold", NoJSON, r"not JSON .*let its fields be numbers"),
    ]
