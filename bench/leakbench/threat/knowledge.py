"""What an adversary may know."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Flag, auto

from leakbench.base.errors import UsageError


class Knowledge(Flag):
    """What an adversary may know. The batch size is always known."""

    NOTHING = 0
    MODEL = auto()
    """The shared model's weights in the attacked round."""
    UPDATE = auto()
    """The victim's update, as the defense let it pass."""
    LABELS = auto()
    """The main-task labels of the victim batch, as a multiset."""
    AUXILIARY = auto()
    """D_aux: images of other individuals, labelled with properties and main task."""
    STATISTICS = auto()
    """Mean and variance of the victim batch before every BatchNorm layer: what clients give away
    who send their running statistics along with the update."""
    OUTPUTS = auto()
    """What models that the server itself trained and deployed answer on each victim's image. Each
    individual is served alone, so that the server knows whose output is whose."""
    DEFENSE = auto()
    """The clients' defense with its parameters, but nothing that they draw."""
    CANDIDATES = auto()
    """Images of people of whom it asks whether they are in the batch: as many who are as others."""
    FEATURES = auto()
    """The victims' true deep features. No server has them: only the `oracle` control."""

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
