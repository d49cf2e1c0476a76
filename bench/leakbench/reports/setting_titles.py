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
        varying = [f for f in settings[0] if any(of[f] != settings[0][f] for of in settings)]
        for place, setting in zip(alike, settings, strict=True):
            details = [_detail(field, setting, settings) for field in varying]
            titles[place] = ", ".join([name, *details])
    return titles


def _name(cell: Cell) -> str:
    pretrained = ", pretrained" if is_pretrained(cell) else ""
    return f"{dataset_name(cell)}, {cell.model}{pretrained}"


def _detail(name: str, setting: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]) -> str:
    """Return a field of a setting; of parameters, those in which the settings differ."""
    value, every = setting[name], [of[name] for of in settings]
    if isinstance(value, dict):
        return text_of({k: v for k, v in value.items() if any(of.get(k) != v for of in every)})
    if name == "rounds":
        return counted(value, "round")
    if name == "main_task":
        # By the number of classes, as long as this tells the tasks apart.
        classes = {task: len(task_attributes(task)) for task in every}
        if all(classes.values()) and len(set(classes.values())) == len(classes):
            return f"K = {2 ** classes[value]}"
    return f"{name} = {text_of(list(value) if isinstance(value, tuple) else value)}"
