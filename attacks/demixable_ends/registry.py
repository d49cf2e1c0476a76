"""Demixable ends of models, and the rules that find them.

An end is the part of a model from which exact attacks read features: layers whose gradients are
sums over few individuals. A rule stands beside the class of its end, and returns the end of a model
or the reason why it has none of that kind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from leakbench.base.errors import UsageError
from leakbench.federation.shared_model import SharedModel


class DemixableEnd:
    """The base class of ends."""


End = TypeVar("End", bound=DemixableEnd)


@dataclass(frozen=True)
class Lacking:
    """Why a model has no end of a kind.

    Attributes:
        found: what it has in its place.
        needed: what an end of the kind is made of.
        way_out: what to do.
    """

    found: str
    needed: str
    way_out: str


Rule = Callable[[SharedModel, tuple[int, int, int]], DemixableEnd | Lacking]
"""A shared model and (channels, height, width) of its images → its end of a kind."""

RULES: dict[str, Rule] = {}
"""Kind of end → its rule."""


def register_end(kind: str) -> Callable[[Rule], Rule]:
    """Register the rule of a kind of end."""

    def register(rule: Rule) -> Rule:
        RULES[kind] = rule
        return rule

    return register


def demixable_ends(
    model: SharedModel, image_shape: tuple[int, int, int]
) -> dict[str, DemixableEnd | Lacking]:
    """Return, for each kind, the model's end or why it has none."""
    return {kind: rule(model, image_shape) for kind, rule in RULES.items()}


def end_of(
    model: SharedModel,
    image_shape: tuple[int, int, int],
    kinds: Sequence[str],
    of_type: type[End],
    attack: str,
) -> End:
    """Return the model's first end of some kinds.

    Args:
        kinds: names under which rules are registered.
        of_type: class of the ends that these rules return.
        attack: that asks.

    Raises:
        UsageError: it has none; names what was found and what would be needed.
    """
    reasons = []
    for kind in kinds:
        end = RULES[kind](model, image_shape)
        if isinstance(end, of_type):
            return end
        if isinstance(end, Lacking):
            reasons.append(end)
    needed = ", or ".join(dict.fromkeys(reason.needed for reason in reasons))
    last = reasons[-1]
    raise UsageError(
        f"attack {attack!r} needs a model that ends in {needed}, but this one {last.found}; "
        f"{last.way_out}"
    )
