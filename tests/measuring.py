"""One cell, measured in this process."""

from __future__ import annotations

from pathlib import Path

from leakbench.base.plugins import build, parameters_of
from leakbench.base.registry import ATTACKS
from leakbench.evaluation.measuring import measure
from leakbench.evaluation.preparation import prepare
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.records.record import Record


def measured(
    setup: Setup,
    data_root: Path | None,
    attack: str,
    parameters: dict[str, object],
    **fields: object,
) -> Record:
    """Measure a cell of an attack with these parameters and other fields of the cell."""
    complete = parameters_of(build(ATTACKS, attack, parameters))
    cell = Cell.model_validate(
        setup.model_dump() | {"attack": attack, "attack_parameters": complete, **fields}
    )
    made = prepare(cell.setup, data_root, "cpu", lambda message: None)
    return measure(ResolvedCell.of(cell), made, lambda share: None)
