"""The batch size up to which mask demixing finds individuals: B = m / 2, of m hidden units."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from leakbench.base.registry import MODELS
from leakbench.experiments.cell import Cell
from leakbench.records.measured import Measured

DEMIXING = "mask_demixing"

LIMIT = "B = m / 2"


def hidden_units(cell: Cell) -> int | None:
    """Return m, the units of the hidden layer behind the features; None where it has no single one.

    It is a parameter of the model, or that parameter's default.
    """
    known = {field.name: field.default for field in fields(MODELS.get(cell.model))}
    values = known | dict(cell.model_parameters)
    units = values.get("hidden")
    one_layer = values.get("hidden_layers", 1) == 1 and cell.split != "hidden"
    return units if isinstance(units, int) and one_layer else None


def demixing_limit(cells: Iterable[Measured]) -> float | None:
    """Return the limit of cells of mask demixing; None if there are none, or several limits."""
    units = {
        hidden_units(m.entry.cell) for m in cells if m.entry.cell.attack == DEMIXING and m.record
    }
    (only,) = units if len(units) == 1 else (None,)
    return None if only is None else only / 2
