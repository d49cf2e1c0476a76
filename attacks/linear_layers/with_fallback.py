"""An attack composed with another one, which answers where the first finds nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from leakbench.base.errors import UsageError
from leakbench.base.plugins import FlatParameters, build, parameter_names, parameters_of
from leakbench.base.registry import ATTACKS
from leakbench.threat.attack import Attack, AttackResult, Progress
from leakbench.threat.knowledge import Knowledge
from leakbench.threat.observation import Observation
from leakbench.threat.server import Server


@dataclass(frozen=True, kw_only=True)
class WithFallback(FlatParameters, Attack):
    """An attack that lets another one, its fallback, answer for what it does not find.

    Cells and records hold the fallback's parameters beside its own.
    """

    fallback: str = "feature"
    fallback_parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.fallback_parameters.get("reads") == "images":
            raise ValueError("reads must be features: this attack finds no images")
        if unsuitable := _unsuitable(self.fallback_attack):
            raise UsageError(
                f"attack {self.name!r} cannot fall back on {self.fallback!r}, which {unsuitable}; "
                f"choose another fallback, such as feature"
            )
        common = {*self._own_names()} & {*parameter_names(type(self.fallback_attack))}
        if common:
            raise UsageError(
                f"attack {self.name!r} cannot fall back on {self.fallback!r}: both have a "
                f"parameter {min(common)!r}; choose another fallback, such as feature"
            )

    @cached_property
    def fallback_attack(self) -> Attack:
        """The attack that answers for individuals that are not found."""
        return _fallback(self.fallback, self.fallback_parameters)

    @classmethod
    def _own_names(cls) -> list[str]:
        return [each.name for each in fields(cls) if each.name != "fallback_parameters"]

    @classmethod
    def flat_names(cls, given: Mapping[str, Any]) -> list[str]:
        """Return the names of the fallback's parameters and of its own."""
        fallback = ATTACKS.get(str(given.get("fallback", cls.fallback)))
        own = cls._own_names()
        return [*(name for name in parameter_names(fallback) if name not in own), *own]

    @classmethod
    def from_flat(cls, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return its own parameters, and all of the fallback's as one mapping.

        Raises:
            UsageError: the fallback is unknown, or one of its parameters does not fit.
        """
        own = {name: parameters[name] for name in cls._own_names() if name in parameters}
        others = {name: value for name, value in parameters.items() if name not in own}
        fallback = _fallback(own.get("fallback", cls.fallback), others)
        return own | {"fallback_parameters": parameters_of(fallback)}

    def to_flat(self) -> dict[str, Any]:
        """Return the fallback's parameters and its own; `fallback` only where it is not `feature`.

        Cells that were published before there was a choice keep their keys.
        """
        own = {name: getattr(self, name) for name in self._own_names()}
        if self.fallback == type(self).fallback:
            del own["fallback"]
        return parameters_of(self.fallback_attack) | own

    def fall_back(
        self, server: Server, observations: Sequence[Observation], progress: Progress
    ) -> list[AttackResult]:
        """Return the fallback's answers.

        Raises:
            UsageError: it declares that it reconstructs features, but does not.
        """
        if not observations:
            return []
        results = self.fallback_attack.infer(server, observations, progress)
        if any(result.features is None for result in results):
            raise UsageError(
                f"attack {self.fallback!r} reconstructs no features; let it declare "
                f"`reconstructs_features = False`, and choose another fallback, such as feature"
            )
        return results


def _unsuitable(fallback: Attack) -> str | None:
    """Return why an attack is no fallback for batches of any size; None if it is one."""
    beyond = fallback.required_knowledge & ~ALLOWED
    if beyond:
        return f"needs to know {' and '.join(beyond.names())}"
    if not fallback.reconstructs_features:
        return "reconstructs no features"
    if fallback.largest_batch is not None:
        return f"is defined up to B = {fallback.largest_batch} only"
    return None


ALLOWED = (
    Knowledge.MODEL
    | Knowledge.UPDATE
    | Knowledge.LABELS
    | Knowledge.AUXILIARY
    | Knowledge.STATISTICS
    | Knowledge.DEFENSE
)
"""What a fallback may require: not the true features, and nothing that is asked of an attack before
the batch is seen."""


def _fallback(name: str, parameters: Mapping[str, Any]) -> Attack:
    """Return the fallback `name`; see `FALLBACK_DEFAULTS`.

    Raises:
        UsageError: there is no such attack, or a parameter does not fit.
    """
    defaults = FALLBACK_DEFAULTS.get(name, {})
    attack: Attack = build(ATTACKS, name, {**defaults, **parameters})
    return attack


FALLBACK_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"feature": {"labels": "counts"}}
"""Fallback → parameters at which its own defaults need knowledge that demixing does without."""
