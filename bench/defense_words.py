"""Defenses in words, as tables, figures and settings name them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from bench.cells import Cell
from bench.registry import DEFENSES

THEN = " then "
"""Between defenses that are applied one after the other."""


def defense_text(cell: Cell) -> str:
    """Return a cell's defense with its level: `sparsify (fraction = 0.1) then laplace (…)`."""
    return THEN.join(f"{name} ({of})" if of else name for name, of in _parts(cell))


def defense_name(cell: Cell) -> str:
    """Return a cell's defense: `sparsify then gaussian`."""
    return THEN.join(name for name, _ in _parts(cell))


def defense_level(cell: Cell) -> str:
    """Return the parameters of a cell's defense: `fraction = 0.1 then sigma = 0.01`."""
    return THEN.join(of for _, of in _parts(cell) if of)


def _parts(cell: Cell) -> list[tuple[str, str]]:
    """Return the names of a cell's defenses, in their order, each with its parameters."""
    if cell.defense != "composed":
        return [(cell.defense, _level(cell.defense, cell.defense_parameters))]
    tables = cell.defense_parameters["defenses"]
    return [
        (table["name"], _level(table["name"], {k: v for k, v in table.items() if k != "name"}))
        for table in tables
    ]


def _level(name: str, parameters: Mapping[str, Any]) -> str:
    """Return parameters in words: all numbers, and what else is not at its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(DEFENSES.get(name))}
    shown = {
        key: value
        for key, value in parameters.items()
        if is_number(value) or value != defaults.get(key)
    }
    return ", ".join(f"{key} = {value}" for key, value in shown.items())


def is_number(value: object) -> bool:
    """Whether a parameter's value is a number, which a truth value is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
