"""Defenses in words, as tables, figures and settings name them."""

from __future__ import annotations

import dataclasses
import marshal
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

from leakbench.base.canonical import exact
from leakbench.base.plugins import PluginSpec
from leakbench.base.registry import DEFENSES
from leakbench.experiments.cell import Cell

THEN = " then "
"""Between defenses that are applied one after the other."""


def defense_text(cell: Cell) -> str:
    """Return a cell's defense with its level: `sparsify (fraction = 0.1) then laplace (…)`."""
    content = None if cell.defense == "composed" else exact(cell.defense_parameters)
    if content is None:
        return THEN.join(_with(name, given) for name, given in _parts(cell))
    return _text_of_exact(cell.defense, DEFENSES.get(cell.defense), content)


@lru_cache(maxsize=4096)
def _text_of_exact(name: str, defense: type, content: bytes) -> str:
    """Return a defense with its level, made once, since thousands of cells ask for it."""
    return _with(name, _of_exact(defense, content))


def defense_name(cell: Cell) -> str:
    """Return a cell's defense: `sparsify then gaussian`."""
    return THEN.join(name for name, _ in _parts(cell))


def defense_level(cell: Cell) -> str:
    """Return the parameters of a cell's defense: `fraction = 0.1 then sigma = 0.01`."""
    return THEN.join(_words(given) for _, given in _parts(cell) if given)


def defense_family(cell: Cell) -> str:
    """Return a cell's defense with what is no number: `sparsify (choice = random)`."""
    return THEN.join(
        _with(name, {key: value for key, value in given.items() if not is_number(value)})
        for name, given in _parts(cell)
    )


def defense_numbers(cell: Cell) -> dict[str, float]:
    """Return the parameters of a cell's defense that are numbers, by defense and name."""
    return {
        f"{place} {key}": value
        for place, (_, given) in enumerate(_parts(cell))
        for key, value in given.items()
        if is_number(value)
    }


def _parts(cell: Cell) -> list[tuple[str, dict[str, Any]]]:
    """Return a cell's defenses in their order, each with the parameters that are worth a word."""
    if cell.defense != "composed":
        return [(cell.defense, _given(cell.defense, cell.defense_parameters))]
    parts = [PluginSpec.from_table(t, "composed") for t in cell.defense_parameters["defenses"]]
    return [(part.name, _given(part.name, part.parameters)) for part in parts]


def _given(name: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that are not at their default; if none is, all numbers."""
    defense, content = DEFENSES.get(name), exact(parameters)
    # A copy of what is known, since thousands of cells ask for it.
    return _of(defense, parameters) if content is None else dict(_of_exact(defense, content))


@lru_cache(maxsize=4096)
def _of_exact(defense: type, content: bytes) -> dict[str, Any]:
    return _of(defense, marshal.loads(content))


def _of(defense: type, parameters: Mapping[str, Any]) -> dict[str, Any]:
    defaults = _defaults(defense)
    given = {key: value for key, value in parameters.items() if value != defaults.get(key)}
    return given or {key: value for key, value in parameters.items() if is_number(value)}


@cache
def _defaults(defense: type) -> Mapping[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(defense)}


def _with(name: str, given: Mapping[str, Any]) -> str:
    return f"{name} ({_words(given)})" if given else name


def _words(given: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} = {value}" for key, value in given.items())


def is_number(value: object) -> bool:
    """Whether a parameter's value is a number, which a truth value is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)
