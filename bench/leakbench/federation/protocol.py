"""How clients are federated, as one computation with the defense that they apply on top."""

from __future__ import annotations

from leakbench.base.errors import UsageError
from leakbench.base.plugins import PluginSpec
from leakbench.federation.defense import Defense, Stage
from leakbench.federation.defenses.composed import Composed
from leakbench.federation.defenses.none import NoDefense


def under_protocol(protocol: Defense | None, defense: Defense) -> Defense:
    """Return what clients do for an update: their defense, with the protocol's local steps in it.

    What changes a gradient changes each step's, and what changes an update the difference of
    weights that is sent.

    Args:
        protocol: the local steps of federated averaging; None for one gradient a round.
        defense: of the clients, or their part of it.

    Raises:
        UsageError: the defense takes local steps itself.
    """
    if protocol is None:
        return defense
    parts = defense.parts if isinstance(defense, Composed) else (defense,)
    parts = tuple(part for part in parts if not isinstance(part, NoDefense))
    stepping = next((part for part in parts if part.stage == protocol.stage), None)
    if stepping is not None:
        raise UsageError(
            f"defense {stepping.name!r} cannot be combined with `local_epochs`, by which clients "
            f"take local steps already; leave out one of them"
        )
    if not parts:
        return protocol
    before = [part for part in parts if part.stage < Stage.STEPS]
    ordered = [*before, protocol, *parts[len(before) :]]
    return Composed(defenses=tuple(PluginSpec.of(part).table() for part in ordered))
