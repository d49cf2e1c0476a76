"""Measured cells in words and rows, as every table and figure shows them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from bench.cells import Cell
from bench.defense_words import defense_level, defense_name, defense_text
from bench.metrics import Estimate
from bench.split import task_attributes
from bench.store import Record
from bench.suite import Planned

MISSING = "–"


Row = tuple[str, ...]


LAYOUTS: Mapping[str, tuple[str, ...]] = {
    "table1": ("data set", "property"),
    "table2": ("main task", "property", "B"),
    "table3": ("data set", "D_aux", "property"),
    "budget": ("main task", "property", "budget"),
    "defense": ("property", "B", "defense", "level"),
    "exact": ("main task", "m", "B"),
    "membership": ("main task", "m", "B"),
}
"""Leading columns of each layout; settings that vary within a table are put before them."""


@dataclass(frozen=True)
class Measured:
    """A cell's place in a suite and its record, if it has been measured."""

    planned: Planned
    record: Record | None


def leading_values(measured: Measured, name: str, columns: Sequence[str]) -> Row:
    """Return what stands in the leading columns for a cell and one of its properties."""
    cell, swept = measured.planned.cell, measured.planned.swept
    values: dict[str, Callable[[], str]] = {
        "data set": lambda: dataset_name(cell),
        "D_aux": lambda: auxiliary_name(cell),
        "auxiliary_dataset": lambda: auxiliary_name(cell),
        "main task": lambda: task_name(measured),
        "property": lambda: name + ("†" if is_implied(measured, name) else ""),
        "m": lambda: text_of(cell.model_parameters.get("hidden", MISSING)),
        "B": lambda: str(cell.batch_size),
        "defense": lambda: defense_name(cell),
        "level": lambda: defense_level(cell) or MISSING,
        "defense_parameters": lambda: defense_level(cell) or MISSING,
    }

    def value(column: str) -> str:
        if column in values:
            return values[column]()
        if column in Cell.model_fields:
            return text_of(getattr(cell, column))
        return text_of(swept[column]) if column in swept else MISSING

    return tuple(value(column) for column in columns)


def settings_text(measured: Measured, columns: Sequence[str]) -> str:
    """Return what would stand in leading columns, none of them the property's, as `column = …`."""
    return text_of(dict(zip(columns, leading_values(measured, "", columns), strict=True)))


def varying_settings(planned: Sequence[Planned], leading: Sequence[str]) -> list[str]:
    """Return the settings, besides the leading columns, that differ between cells of a table."""
    cells = [each.cell for each in planned]
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
        # What a data set has of its own, such as its main task, the settings name. Where no column
        # names the data set, that goes for its parameters alone.
        name = names.get(field, dataset_name if "data set" in leading else None)
        return name(cell) if name else ""

    def value(field: str, cell: Cell) -> object:
        if field == "model_parameters" and "m" in leading:
            return {key: of for key, of in cell.model_parameters.items() if key != "hidden"}
        own = field == "auxiliary_dataset_parameters" and not cell.auxiliary_dataset
        return cell.dataset_parameters if own else getattr(cell, field)

    def varies(field: str) -> bool:
        found = {(whose(field, cell), text_of(value(field, cell))) for cell in cells}
        return len(found) > len({name for name, _ in found})

    swept = dict.fromkeys(name for each in planned for name in each.swept if name not in leading)
    return [
        *(f for f in Cell.model_fields if f not in ignored and varies(f)),
        *(p for p in swept if len({text_of(each.swept.get(p, MISSING)) for each in planned}) > 1),
    ]


def describe(planned: Planned) -> str:
    """Return a cell in a few words."""
    cell = planned.cell
    swept = text_of({k: v for k, v in cell.attack_parameters.items() if k in planned.swept})
    data = dataset_name(cell)
    if cell.auxiliary_dataset:
        data += f" with D_aux of {auxiliary_name(cell)}"
    place = f"{planned.column}, {data}, {cell.main_task}, B = {cell.batch_size}"
    if cell.defense != "none":
        place += f", under {defense_text(cell)}"
    return f"{place}, {swept}" if swept else place


def dataset_name(cell: Cell) -> str:
    """Return the data set, with its subject where it has several."""
    return _with_subject(cell.dataset, cell.dataset_parameters)


def auxiliary_name(cell: Cell) -> str:
    """Return the data set that D_aux comes from, with its subject where it has several."""
    if not cell.auxiliary_dataset:
        return dataset_name(cell)
    return _with_subject(cell.auxiliary_dataset, cell.auxiliary_dataset_parameters)


def _with_subject(name: str, parameters: Mapping[str, object]) -> str:
    subject = parameters.get("subject")
    return f"{name} {subject}" if subject else name


def task_name(measured: Measured) -> str:
    """Return the main task and its number of classes, which for identity only a record knows."""
    record, task = measured.record, measured.planned.cell.main_task
    if attributes := task_attributes(task):
        return f"{task} (K = {2 ** len(attributes)})"
    return (
        task
        if record is None or record.metrics is None
        else f"{task} (K = {record.metrics.classes})"
    )


def is_implied(measured: Measured, name: str) -> bool:
    """Whether the main task's own label gives a property away."""
    record = measured.record
    return bool(record and record.metrics and record.metrics.properties[name].in_main_task)


def percent(estimate: Estimate) -> str:
    """Return a share with its interval, in percent."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "undefined"
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def number(estimate: Estimate, digits: int) -> str:
    """Return a number with its interval."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return "undefined"
    value, low, high = (f"{x:.{digits}f}" for x in (estimate.value, estimate.low, estimate.high))
    return f"{value} [{low}, {high}]"


def text_of(value: object) -> str:
    """Return a setting as text, a mapping as `key = value, …`."""
    if isinstance(value, dict):
        return ", ".join(f"{k} = {v}" for k, v in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def markdown_table(rows: Sequence[Sequence[str]], columns: Sequence[str]) -> str:
    """Return a Markdown table; what would end a place or a line does not."""
    inside = [[" ".join(text.replace("|", "\\|").split()) for text in row] for row in rows]
    frame = pd.DataFrame(inside, columns=pd.Index(columns), dtype=str)
    return str(frame.to_markdown(index=False, disable_numparse=True))
