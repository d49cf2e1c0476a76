"""Demixable ends of models, and the rules that find them.

An end is the part of a model from which exact attacks read features: layers whose gradients are
sums over few individuals. A rule stands beside the class of its end, and returns the end of a model
or the reason why it has none of that kind.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from torch import Tensor

from leakbench.base.errors import UsageError
from leakbench.federation.shared_model import SharedModel


class DemixableEnd:
    """The base class of ends."""


@dataclass(frozen=True)
class Lacking:
    """Why a model has no end of a kind.

    Attributes:
        needed: what an end of the kind is made of.
        found: what this model has in its place, as a clause.
        way_out: what to do.
    """

    needed: str
    found: str
    way_out: str


Rule = Callable[[SharedModel, Tensor], DemixableEnd | Lacking]
"""A shared model and a few of its inputs → its end of a kind, or why it has none."""

RULES: dict[str, Rule] = {}
"""Kind of end → its rule."""

End = TypeVar("End", bound=DemixableEnd)


def register_end(kind: str) -> Callable[[Rule], Rule]:
    """Register the rule of a kind of end."""

    def register(rule: Rule) -> Rule:
        RULES[kind] = rule
        return rule

    return register


def demixable_ends(model: SharedModel, examples: Tensor) -> dict[str, DemixableEnd]:
    """Return the ends of a model by kind, of all kinds whose rules are imported.

    Args:
        examples: a few inputs of the model.
    """
    found = {kind: rule(model, examples) for kind, rule in RULES.items()}
    return {kind: end for kind, end in found.items() if isinstance(end, DemixableEnd)}


def end_of(model: SharedModel, examples: Tensor, kind: str, of_type: type[End], attack: str) -> End:
    """Return the model's end of a kind.

    Args:
        examples: a few inputs of the model.
        kind: under which its rule is registered.
        of_type: class of the ends that this rule returns.
        attack: that asks.

    Raises:
        UsageError: it has none; names what would be needed and what was found.
    """
    end = RULES[kind](model, examples)
    if isinstance(end, Lacking):
        raise UsageError(f"attack {attack!r} needs {end.needed}, but {end.found}; {end.way_out}")
    assert isinstance(end, of_type)
    return end
