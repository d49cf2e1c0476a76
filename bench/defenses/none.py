"""No defense."""

from __future__ import annotations

from dataclasses import dataclass

from bench.client import Compute
from bench.defense import Defense
from bench.registry import register_defense


@register_defense("none")
@dataclass(frozen=True, kw_only=True)
class NoDefense(Defense):
    """The update is sent as it is."""

    reference = "none"

    def protect(self, compute: Compute) -> Compute:
        """Return `compute` itself."""
        return compute
