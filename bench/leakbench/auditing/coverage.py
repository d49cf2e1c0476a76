"""What an audit did not test, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from leakbench.auditing.report_parts import AttackReport, AuditedUpdate, DefenseReport
from leakbench.base.registry import ATTACKS

NEVER_TESTED = (
    "No audit tests servers that send crafted models or otherwise leave the protocol, several "
    "rounds or several updates of one client together, whether a person took part (membership), "
    "how alike reconstructed images are, or what the finished model gives away.",
)
"""What no audit of this version tests."""


def not_tested(
    properties: Sequence[str],
    updates: Sequence[AuditedUpdate],
    attacks: Sequence[AttackReport],
    defenses: Sequence[DefenseReport],
) -> list[str]:
    """Return what was not tested; reasons that concern the case alone are limitations.

    Args:
        properties: that were inferred.
        attacks: with the controls.
    """
    refused = [a.title for a in attacks if a.refused and not a.control]
    chosen = {a.name for a in attacks}
    others = [name for name in _installed_attacks() if name not in chosen]
    not_tried = [d.label for d in defenses if d.refused]
    unchecked = sum(update.check == "not checked" for update in updates)
    found = [f"Properties other than {', '.join(properties)} were not inferred."]
    if refused:
        found.append(f"Chosen, but not run: {', '.join(refused)}; the limitations give the reason.")
    if others:
        found.append(f"Attacks that were not chosen: {', '.join(others)}.")
    if all(d.refused or d.name == "none" for d in defenses):
        found.append("No defense was tried.")
    elif not_tried:
        found.append(f"Defenses that could not be tried: {', '.join(not_tried)}.")
    if unchecked:
        found.append(
            f"Whether {unchecked} of {len(updates)} updates are what the model computes was not "
            f"checked; the limitations give the reason."
        )
    return [*found, *NEVER_TESTED]


def _installed_attacks() -> list[str]:
    """Return the names of this package's attacks, without controls."""
    return [name for name in ATTACKS.own() if ATTACKS.get(name).control is None]
