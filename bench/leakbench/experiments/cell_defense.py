"""The defense of a cell, and how many individuals it brings together in one update."""

from __future__ import annotations

from typing import TYPE_CHECKING

from leakbench.base.plugins import build
from leakbench.base.registry import DEFENSES
from leakbench.federation.defense import Defense

if TYPE_CHECKING:
    from leakbench.experiments.cell import Cell


def defense_of(cell: Cell) -> Defense:
    """Return the cell's defense.

    Raises:
        UsageError: it is unknown, or a parameter does not fit.
    """
    defense: Defense = build(DEFENSES, cell.defense, cell.defense_parameters)
    return defense


def individuals_in_update(cell: Cell) -> int:
    """Return how many individuals stand behind what the server sees: B of each client."""
    return cell.batch_size * defense_of(cell).clients


def updates_seen(cell: Cell) -> int:
    """Return how many updates of victims the server sees."""
    return cell.individuals // individuals_in_update(cell)
