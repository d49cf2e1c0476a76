"""Titles of settings: data set and model, and in what settings that share these differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from leakbench.data.split import task_attributes
from leakbench.experiments.cell import Cell
from leakbench.experiments.descriptions import dataset_name, text_of
from leakbench.metrics.formatting import counted


def is_pretrained(cell: Cell) -> bool:
    """Whether the shared model began with pretrained weights."""
    return str(cell.model_parameters.get("weights", "none")) != "none"


def setting_titles(cells: Sequence[Cell], without: Collection[str]) -> list[str]:
    """Return a title for the setting of each cell, in their order.

    Args:
        cells: of different settings.
        without: fields in which the cells of one setting may differ.
    """
    by_name: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        by_name.setdefault(_name(cell), []).append(place)
    titles = [""] * len(cells)
    for name, alike in by_name.items():
        settings = [cells[place].model_dump(exclude=set(without)) for place in alike]
        columns = {field: [of[field] for of in settings] for field in settings[0]}
        details = [
            _details(field, values)
            for field, values in columns.items()
            if any(value != values[0] for value in values)
        ]
        for place, *of_cell in zip(alike, *details, strict=True):
            titles[place] = ", ".join([name, *of_cell])
    return titles


def _name(cell: Cell) -> str:
    pretrained = ", pretrained" if is_pretrained(cell) else ""
    return f"{dataset_name(cell)}, {cell.model}{pretrained}"


def _details(name: str, values: Sequence[Any]) -> list[str]:
    """Return a field in words for each setting; of parameters, those in which the settings differ.

    Args:
        values: of the settings.
    """
    if isinstance(values[0], dict):
        differing = _differing(values)
        return [text_of({k: v for k, v in of.items() if k in differing}) for of in values]
    if name == "rounds":
        return [counted(rounds, "round") for rounds in values]
    if name == "main_task":
        # By the number of classes, as long as this tells the tasks apart.
        classes = {task: len(task_attributes(task)) for task in values}
        if all(classes.values()) and len(set(classes.values())) == len(classes):
            return [f"K = {2 ** classes[task]}" for task in values]
    texts = (text_of(list(value) if isinstance(value, tuple) else value) for value in values)
    return [f"{name} = {text}" for text in texts]


def _differing(tables: Sequence[Mapping[str, Any]]) -> set[str]:
    """Return the parameters that are not the same in all tables."""
    first = tables[0]
    names = dict.fromkeys(name for each in tables for name in each)
    return {n for n in names if any(each.get(n) != first.get(n) for each in tables)}
