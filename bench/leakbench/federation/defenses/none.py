"""No defense."""

from __future__ import annotations

from dataclasses import dataclass

from leakbench.base.registry import register_defense
from leakbench.federation.client import Compute
from leakbench.federation.defense import Defense


@register_defense("none")
@dataclass(frozen=True, kw_only=True)
class NoDefense(Defense):
    """Sends the update unchanged."""

    reference = "none"

    def protect(self, compute: Compute) -> Compute:
        """Return `compute` itself."""
        return compute
