"""Settings of measured cells as text, as all tables and figures show them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

from leakbench.data.split import task_attributes
from leakbench.experiments.cell import Cell
from leakbench.experiments.defense_labels import defense_level, defense_name
from leakbench.experiments.descriptions import auxiliary_name, dataset_name, text_of
from leakbench.experiments.expansion import SuiteEntry
from leakbench.metrics.formatting import MISSING
from leakbench.records.measured import Measured
from leakbench.reports.marks import IMPLIED

Row = tuple[str, ...]

OF_MODEL = "model."
"""What columns of single parameters of the model begin with, as they do in `--set`."""

LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "table1": ("data set", "property"),
    "table2": ("main task", "property", "B"),
    "table3": ("data set", "D_aux", "property"),
    "budget": ("main task", "property", "budget"),
    "defense": ("property", "B", "defense", "level"),
    "exact": ("main task", "m", "B"),
    "membership": ("main task", "m", "B"),
}
"""Leading columns of each layout; settings that vary within a table come before them."""


def leading_values(measured: Measured, name: str, columns: Sequence[str]) -> Row:
    """Return the values of the leading columns for a cell and one of its properties."""
    cell, swept = measured.entry.cell, measured.entry.swept

    def value(column: str) -> str:
        if column == "property":
            return property_text(measured, name)
        if column in OF_A_CELL:
            return OF_A_CELL[column](measured)
        if column.startswith(OF_MODEL):
            return text_of(cell.model_parameters.get(column.removeprefix(OF_MODEL), MISSING))
        if column in Cell.model_fields:
            return text_of(getattr(cell, column))
        return text_of(swept[column]) if column in swept else MISSING

    return tuple(value(column) for column in columns)


def leading_of_properties(measured: Measured, columns: Sequence[str]) -> dict[str, Row]:
    """Return property → the values of the leading columns, which else are the same."""
    same = leading_values(measured, "", [column for column in columns if column != "property"])
    if "property" not in columns:
        return dict.fromkeys(measured.entry.cell.properties, same)
    place = columns.index("property")
    return {
        name: (*same[:place], property_text(measured, name), *same[place:])
        for name in measured.entry.cell.properties
    }


def settings_text(measured: Measured, columns: Sequence[str]) -> str:
    """Return the values of leading columns, none of them the property's, as `column = …`."""
    return text_of(dict(zip(columns, leading_values(measured, "", columns), strict=True)))


def varying_settings(entries: Sequence[SuiteEntry], leading: Sequence[str]) -> list[str]:
    """Return the settings, besides the leading columns, that differ between cells of a table.

    Where all cells have one model, each of its parameters is a setting, as `model.width`.
    """
    cells = [each.cell for each in entries]
    by_field = dict(zip(FIELDS, zip(*map(ALL_FIELDS, cells), strict=True), strict=True))
    shown = {
        "data set": {"dataset"},
        "D_aux": {"auxiliary_dataset"},
        "main task": {"main_task"},
        "B": {"batch_size"},
        "defense": {"defense"},
        "level": {"defense_parameters"},
    }
    ignored = {"attack", "attack_parameters", "grant", "properties"}
    ignored |= set().union(*(shown.get(column, set()) for column in leading))
    names = {"dataset_parameters": dataset_name, "auxiliary_dataset_parameters": auxiliary_name}

    def whose(field: str, cell: Cell) -> str:
        # What a data set alone determines, such as its main task, is in the settings under the
        # table. Where no column names the data set, this holds for its parameters only.
        name = names.get(field, dataset_name if "data set" in leading else None)
        owner = name(cell) if name else ""
        # The settings under the table list the individuals by batch size.
        return f"{owner}, B = {cell.batch_size}" if field == "individuals" else owner

    def values_of(field: str) -> Sequence[Any]:
        if field == "model_parameters" and "m" in leading:
            given = (cell.model_parameters for cell in cells)
            return [{key: of for key, of in each.items() if key != "hidden"} for each in given]
        if field == "auxiliary_dataset_parameters":
            return [
                cell.auxiliary_dataset_parameters
                if cell.auxiliary_dataset
                else cell.dataset_parameters
                for cell in cells
            ]
        return by_field[field]

    def varies(field: str) -> bool:
        values = values_of(field)
        # Most are the same everywhere. In parameters, 1 and 1.0 are told apart below.
        if not isinstance(values[0], dict) and values.count(values[0]) == len(values):
            return False
        # Cells share their tables of parameters, whose text is made once.
        texts = {id(each): text_of(each) for each in {id(each): each for each in values}.values()}
        found = {
            (whose(field, cell), texts[id(each)]) for each, cell in zip(values, cells, strict=True)
        }
        return len(found) > len({name for name, _ in found})

    def columns(field: str) -> list[str]:
        if field != "model_parameters" or len({cell.model for cell in cells}) > 1:
            return [field]
        given = dict.fromkeys(name for each in values_of(field) for name in each)
        texts = {
            name: {text_of(cell.model_parameters.get(name, MISSING)) for cell in cells}
            for name in given
        }
        return [OF_MODEL + name for name, found in texts.items() if len(found) > 1]

    swept = dict.fromkeys(name for each in entries for name in each.swept if name not in leading)
    return [
        *(c for f in Cell.model_fields if f not in ignored and varies(f) for c in columns(f)),
        *(p for p in swept if len({text_of(each.swept.get(p, MISSING)) for each in entries}) > 1),
    ]


FIELDS = tuple(Cell.model_fields)

ALL_FIELDS = attrgetter(*FIELDS)
"""The values of all fields of a cell, many times faster than one by one."""


def task_name(measured: Measured) -> str:
    """Return the main task and its number of classes, which for identity only a record has."""
    record, task = measured.record, measured.entry.cell.main_task
    if attributes := task_attributes(task):
        return f"{task} (K = {2 ** len(attributes)})"
    return (
        task
        if record is None or record.metrics is None
        else f"{task} (K = {record.metrics.classes})"
    )


def _hidden_units(measured: Measured) -> str:
    parameters = measured.entry.cell.model_parameters
    hidden = parameters.get("hidden", MISSING) if parameters.get("hidden_layers", 1) else MISSING
    return text_of(hidden)


def _level(measured: Measured) -> str:
    return defense_level(measured.entry.cell) or MISSING


OF_A_CELL: Mapping[str, Callable[[Measured], str]] = {
    "data set": lambda m: dataset_name(m.entry.cell),
    "D_aux": lambda m: auxiliary_name(m.entry.cell),
    "auxiliary_dataset": lambda m: auxiliary_name(m.entry.cell),
    "main task": task_name,
    "m": _hidden_units,
    "B": lambda m: str(m.entry.cell.batch_size),
    "defense": lambda m: defense_name(m.entry.cell),
    "level": _level,
    "defense_parameters": _level,
}
"""Leading columns that are not a field's, or not its value as it is → what they show."""


def property_text(measured: Measured, name: str) -> str:
    """Return a property's name, with a mark if the main task's label implies it."""
    return name + (IMPLIED if is_implied(measured, name) else "")


def is_implied(measured: Measured, name: str) -> bool:
    """Whether the main task's label implies a property."""
    record = measured.record
    return bool(record and record.metrics and record.metrics.properties[name].in_main_task)
