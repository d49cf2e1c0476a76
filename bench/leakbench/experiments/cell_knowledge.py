"""What the attack of a cell gets to know."""

from __future__ import annotations

from leakbench.experiments.cell import Cell
from leakbench.threat.attack import (
    Attack,
)
from leakbench.threat.knowledge import Knowledge


def knowledge_of(attack: Attack, cell: Cell) -> Knowledge:
    """Return what the attack gets to know: what it declares, not all that the cell grants.

    Else it could use what the table, which prints this, says it does not know.
    """
    return attack.required_knowledge | (attack.optional_knowledge & Knowledge.parse(cell.grant))
