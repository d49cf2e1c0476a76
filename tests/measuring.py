"""One cell, measured in this process."""

from __future__ import annotations

from pathlib import Path

from bench.cells import Cell, Setup
from bench.measure import measure
from bench.plugins import build, parameters_of
from bench.preparation import prepare
from bench.registry import ATTACKS
from bench.store import Record


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
    return measure(cell, made, lambda share: None)
