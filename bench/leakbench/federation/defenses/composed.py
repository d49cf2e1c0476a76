"""Composition of several defenses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import prod
from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor

from leakbench.base.errors import UsageError
from leakbench.base.plugins import FlatParameters, PluginSpec
from leakbench.base.registry import DEFENSES, register_defense
from leakbench.federation.client import Compute, Update
from leakbench.federation.defense import Defense, Stage


@register_defense("composed")
@dataclass(frozen=True, kw_only=True)
class Composed(Defense, FlatParameters):
    """Applies several defenses in the given order.

    Attributes:
        defenses: tables, each with a `name` and parameters.
    """

    reference = "none"
    example_parameters: ClassVar = {
        "defenses": [
            {"name": "local_steps", "epochs": 2, "batch": 2},
            {"name": "sparsify", "fraction": 0.5},
            {"name": "gaussian", "sigma": 0.01},
        ]
    }

    defenses: Annotated[tuple[dict[str, Any], ...], Field(min_length=1)]

    def __post_init__(self) -> None:
        for before, after in pairwise(self.parts):
            if after.stage < before.stage or (
                after.stage == before.stage and after.stage is not Stage.UPDATE
            ):
                raise UsageError(
                    f"defense {after.name!r} cannot come after {before.name!r}: "
                    f"{_why(before, after)}"
                )

    @classmethod
    def flat_names(cls, given: Mapping[str, Any]) -> list[str]:  # noqa: ARG003
        """Return the one parameter."""
        return ["defenses"]

    @classmethod
    def from_flat(cls, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defenses with all their parameters; what is no list of tables, as it is."""
        tables = parameters.get("defenses")
        if not isinstance(tables, list | tuple) or not all(isinstance(t, dict) for t in tables):
            return dict(parameters)
        return {"defenses": tuple(PluginSpec.of(_built(table)).table() for table in tables)}

    def to_flat(self) -> dict[str, Any]:
        """Return the defenses with all their parameters, defaults included."""
        return {"defenses": tuple(PluginSpec.of(part).table() for part in self.parts)}

    @cached_property
    def parts(self) -> tuple[Defense, ...]:
        """The defenses, built."""
        return tuple(_built(each) for each in self.defenses)

    def protect(self, compute: Compute) -> Compute:
        """Return `compute` with each defense applied in turn."""
        for part in self.parts:
            compute = part.protect(compute)
        return compute

    @property
    def clients(self) -> int:
        """Number of clients whose updates the server sees as one."""
        return prod(part.clients for part in self.parts)

    def client_part(self) -> Defense | None:
        """Return the parts that a single client applies; None if there are none."""
        own = [each for each in (part.client_part() for part in self.parts) if each is not None]
        if not own:
            return None
        return Composed(defenses=tuple(PluginSpec.of(each).table() for each in own))

    @property
    def uses(self) -> int:
        """Number of gradients in which each individual of a client's batch is used."""
        return prod(part.uses for part in self.parts)

    def reliability(self, update: Update, individuals: int) -> Mapping[str, Tensor]:
        """Return the product of all parts' reliability weights."""
        factors: dict[str, Tensor] = {}
        for part in reversed(self.parts):
            for name, factor in part.reliability(update, individuals).items():
                factors[name] = factors[name] * factor if name in factors else factor
            update, individuals = part.rescale(update, individuals)
        return factors

    def surrogate_of_individuals(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the surrogates of all parts, applied in turn."""
        for part in self.parts:
            gradients = part.surrogate_of_individuals(gradients)
        return gradients

    def surrogate(self, gradients: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return the surrogates of all parts, applied in turn."""
        for part in self.parts:
            gradients = part.surrogate(gradients)
        return gradients

    def local_epochs(self, individuals: int) -> Sequence[Sequence[int]]:
        """Return the epochs of the part that takes local steps, if there is one."""
        found = [part.local_epochs(individuals) for part in self.parts]
        return max(found, key=lambda epochs: sum(map(len, epochs)))

    def epsilon(self, sampled: float, rounds: int, delta: float, uses: int = 1) -> float | None:
        """Return the smallest ε of all parts: post-processing does not weaken privacy."""
        uses *= self.uses
        found = [part.epsilon(sampled, rounds, delta, uses) for part in self.parts]
        return min((each for each in found if each is not None), default=None)


def _built(table: Mapping[str, Any]) -> Defense:
    spec = PluginSpec.from_table(table, "defense 'composed'")
    if spec.name == "composed":
        raise UsageError("defense 'composed' cannot hold itself; list its defenses one by one")
    defense: Defense = spec.build(DEFENSES)
    return defense


def _why(before: Defense, after: Defense) -> str:
    if before.stage == after.stage:
        return "both decide how the update is computed; keep one"
    reasons = {
        Stage.GRADIENT: "it changes how a gradient is computed, so put it first",
        Stage.STEPS: "it takes steps by gradients, so put it before what changes the update",
        Stage.UPDATE: "it changes what one client sends, so put it before what sums clients",
    }
    return reasons[after.stage]
