"""The defense of an audit's clients: their own, and further ones on top of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from leakbench.base.errors import UsageError
from leakbench.base.plugins import PluginSpec
from leakbench.base.registry import DEFENSES
from leakbench.federation.defense import Defense

NO_DEFENSE = PluginSpec("none")


def checked_defense(table: Mapping[str, Any] | str) -> PluginSpec:
    """Return a defense from its table, `{"name": …, parameter: …}`, or its name alone.

    Raises:
        UsageError: it is neither, has no name, is unknown, or a parameter does not fit.
    """
    if not isinstance(table, str | Mapping):
        raise UsageError(
            f"a defense is of type {type(table).__name__}; give a name, or a table such as "
            f'{{"name": "gaussian", "sigma": 0.01}}'
        )
    given = {"name": table} if isinstance(table, str) else table
    spec = PluginSpec.from_table(given, "defense")
    build_defense(spec)
    return spec


def build_defense(spec: PluginSpec) -> Defense:
    """Return the defense.

    Raises:
        UsageError: it is unknown, or a parameter does not fit.
    """
    defense: Defense = spec.build(DEFENSES)
    return defense


def combined_defense(own: PluginSpec, further: PluginSpec) -> PluginSpec:
    """Return both defenses as one, in the order of their stages.

    Raises:
        UsageError: one is unknown, or a parameter does not fit.
    """
    parts = [*_parts(own), *_parts(further)]
    if len(parts) <= 1:
        return parts[0] if parts else NO_DEFENSE
    parts.sort(key=lambda part: build_defense(part).stage)
    return PluginSpec("composed", {"defenses": [part.table() for part in parts]})


def _parts(spec: PluginSpec) -> Sequence[PluginSpec]:
    if spec.name == "none":
        return []
    if spec.name != "composed":
        return [spec]
    return [
        PluginSpec.from_table(table, "defense 'composed'") for table in spec.parameters["defenses"]
    ]
