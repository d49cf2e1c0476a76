"""Kinds of knowledge that a cell grants to the adversary."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Flag, auto

from leakbench.base.errors import UsageError


class Knowledge(Flag):
    """Kinds of knowledge of an adversary. The batch size is always known."""

    NOTHING = 0
    MODEL = auto()
    """The shared model's weights in the attacked round."""
    UPDATE = auto()
    """The victim's update, after the defense."""
    LABELS = auto()
    """The main-task labels of the victim batch, as a multiset."""
    AUXILIARY = auto()
    """D_aux: images of other individuals, labelled with properties and main task."""
    STATISTICS = auto()
    """Mean and variance of the victim batch before every BatchNorm layer: known if clients send
    their running statistics with the update."""
    OUTPUTS = auto()
    """Outputs, on each victim's image, of models that the server trained and deployed. Each
    individual is processed alone, so that the server can assign each output to its individual."""
    DEFENSE = auto()
    """The clients' defense with its parameters, but not their random numbers."""
    CANDIDATES = auto()
    """Images of people who may be in the batch: half of them are members."""
    FEATURES = auto()
    """The victims' true deep features. No server has them; only the `oracle` control gets them."""

    @classmethod
    def parse(cls, names: Iterable[str]) -> Knowledge:
        """Return the union of the named kinds of knowledge.

        Raises:
            UsageError: a name is unknown.
        """
        knowledge = cls.NOTHING
        for name in names:
            if name.upper() not in cls.__members__ or name.upper() == "NOTHING":
                raise UsageError(
                    f"unknown knowledge {name!r}; choose from {', '.join((~cls.NOTHING).names())}"
                )
            knowledge |= cls[name.upper()]
        return knowledge

    def names(self) -> list[str]:
        """Return the names of the kinds of knowledge held, in order of definition."""
        return [str(member.name).lower() for member in Knowledge if member in self]
