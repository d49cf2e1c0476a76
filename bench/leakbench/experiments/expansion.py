"""Suites as lists of cells: every combination of a group, under every column."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import product
from typing import Any

from pydantic import ValidationError

from leakbench.base.errors import UsageError, nearest
from leakbench.base.plugins import PluginSpec, SharedPlugins, parameter_names, sentence
from leakbench.base.registry import ATTACKS
from leakbench.experiments.cell import Cell
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.experiments.suite import (
    PLUGIN_FIELDS,
    SWEPT,
    Column,
    Group,
    GroupColumn,
    Layout,
    Suite,
)


@dataclass(frozen=True, slots=True)
class SuiteEntry:
    """A cell of a suite and its place in the tables: its group and its column.

    Attributes:
        resolved: the cell with its plugins.
        key: of its record.
        swept: parameter of attacks → value in this cell's row, in which the column may stand
            without having the parameter.
        optional: whether it may be left out, see `Group`.
        limit: of the batch size, see `Group`.
    """

    resolved: ResolvedCell
    key: str
    group: str
    layout: Layout
    column: str
    swept: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optional: bool = False
    limit: int | None = None

    @property
    def cell(self) -> Cell:
        """The cell itself."""
        return self.resolved.cell


def expand(name: str, suite: Suite, only: Iterable[str] = ()) -> list[SuiteEntry]:
    """Return the suite's cells in order, each with the parameters of its plugins filled in.

    Args:
        only: filters `FIELD=VALUE[,VALUE…]` on cell fields; globs are allowed.

    Raises:
        UsageError: a field or parameter does not fit, an attack is not granted what it needs, or no
            cell is left.
    """
    filters = [_filter(text) for text in only]
    plugins = SharedPlugins()
    headings = {c: e.title or ATTACKS.get(e.attack or c).title for c, e in suite.attack.items()}
    headings = _told_apart(headings, suite.attack)
    entries = []
    for group in suite.group:
        columns = columns_of(suite, group)
        titles = _told_apart(
            headings | {c: e.title for c, e in group.attack.items() if e.title}, columns
        )
        for fields, swept in _combinations(name, suite.cell | group.cell, group, columns):
            for column, chosen in columns.items():
                fixed = group.attack[column].parameters if column in group.attack else {}
                varied = {k: v for k, v in swept.items() if k not in fixed}
                resolved = _cell(name, fields, column, chosen, varied, plugins)
                aliases = {"attack": column, "main_task": fields.get("main_task")}
                if all(
                    _matches(resolved.cell, aliases, field, values) for field, values in filters
                ):
                    entries.append(
                        SuiteEntry(
                            resolved=resolved,
                            key=resolved.key,
                            group=group.title,
                            layout=group.layout,
                            column=titles[column],
                            swept=swept,
                            optional=group.optional,
                            limit=group.limit,
                        )
                    )
    if not entries:
        raise UsageError(f"suite {name}: no cell is left by --only {' --only '.join(only)}")
    _refuse_two_in_one_place(name, entries)
    return entries


def _refuse_two_in_one_place(name: str, entries: Sequence[SuiteEntry]) -> None:
    """Refuse a table in which one cell would stand on another."""
    unseen = {"attack", "attack_parameters", "grant", "properties"}
    standing: dict[tuple[str, ...], str] = {}
    forms: dict[tuple[str, str], set[tuple[object, ...]]] = {}
    for each in entries:
        cell = each.cell
        # Cells share their tables of parameters.
        form = (cell.attack, id(cell.attack_parameters), cell.grant, cell.properties)
        forms.setdefault((each.group, each.column), set()).add(form)
    for each in entries:
        if len(forms[each.group, each.column]) == 1:
            # All that a table does not show is the same: cells in one place would be one cell.
            continue
        row = each.cell.model_dump_json(exclude=unseen)
        for shown in each.cell.properties:
            place = (each.group, each.column, shown, row, str(sorted(each.swept.items())))
            if standing.setdefault(place, each.key) != each.key:
                raise UsageError(
                    f"suite {name}: two cells of column {each.column!r} stand in the same place of "
                    f"table {each.group!r} (B = {each.cell.batch_size}); give their groups "
                    f"different titles"
                )


def _told_apart(titles: Mapping[str, str], columns: Iterable[str]) -> dict[str, str]:
    """Return the columns' titles; columns with the same title are named by their own names."""
    chosen = {column: titles[column] for column in columns}
    counts = Counter(chosen.values())
    return {c: t if counts[t] == 1 else c for c, t in chosen.items()}


def columns_of(suite: Suite, group: Group) -> dict[str, Column]:
    """Return a group's columns by name."""
    if not group.attack:
        return suite.default_columns
    return {
        column: _changed(column, suite.attack[column], by) for column, by in group.attack.items()
    }


def _changed(name: str, column: Column, by: GroupColumn) -> Column:
    """Return a column as a group has it: what the group gives counts, its preset included."""
    given = by.model_dump(exclude={"parameters"}, exclude_none=True)
    preset = ATTACKS.get(column.attack or name).presets.get(by.preset or "", {})
    kept = {key: value for key, value in column.parameters.items() if key not in preset}
    return column.model_copy(update=given | {"parameters": kept | by.parameters})


def _combinations(
    name: str, fields: Mapping[str, Any], group: Group, columns: Mapping[str, Column]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield the fields of the group's cells, and the attack parameters, of each combination."""
    for key, values in group.sweep.items():
        if not values:
            raise UsageError(f"suite {name}: the sweep of {key!r} is empty")
        if key.startswith(SWEPT):
            having_parameter(columns, key.removeprefix(SWEPT), f"suite {name}: {key}")
    for combined in product(*group.sweep.values()):
        combination = dict(zip(group.sweep, combined, strict=True))
        swept = {
            key.removeprefix(SWEPT): value
            for key, value in combination.items()
            if key.startswith(SWEPT)
        }
        unswept = {k: v for k, v in combination.items() if not k.startswith(SWEPT)}
        yield _taken_apart(name, {**fields, **unswept}), swept


def _taken_apart(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return fields with each table of a plugin's name and parameters as the two fields it is."""
    apart = dict(fields)
    for field in PLUGIN_FIELDS:
        table = fields.get(field)
        if not isinstance(table, Mapping):
            continue
        spec = PluginSpec.from_table(table, f"suite {name}: {field}")
        apart |= {field: spec.name, f"{field}_parameters": dict(spec.parameters)}
    return apart


def _cell(
    name: str,
    fields: dict[str, Any],
    column: str,
    chosen: Column,
    swept: Mapping[str, Any],
    plugins: SharedPlugins,
) -> ResolvedCell:
    plugin = chosen.attack or column
    parameters = {**_preset(name, column, chosen), **chosen.parameters}
    parameters |= {k: v for k, v in swept.items() if k in known_parameters(column, chosen)}
    attack, parameters = plugins.get(ATTACKS, PluginSpec(plugin, parameters))
    complete = {**fields, "attack": plugin, "attack_parameters": parameters}
    if not complete.get("auxiliary_dataset"):
        # A sweep may have the victims' own data set beside another, which has the parameters.
        complete.pop("auxiliary_dataset_parameters", None)
    if chosen.grant is not None:
        complete["grant"] = chosen.grant
    try:
        cell = Cell.model_validate(complete)
    except ValidationError as error:
        raise UsageError(f"suite {name}: {sentence(error)}") from None
    built: dict[str, Any] = {}
    # Shared with the other cells of a plugin, not copied for each.
    filled: dict[str, Any] = {"attack_parameters": parameters}
    for field, registry in PLUGIN_FIELDS.items():
        if not getattr(cell, field) and field == "auxiliary_dataset":
            continue
        built[field], filled[f"{field}_parameters"] = plugins.get(registry, cell.spec(field))
    filled["main_task"] = built["dataset"].main_tasks().get(cell.main_task, cell.main_task)
    resolved = ResolvedCell(cell.model_copy(update=filled), attack, built["defense"])
    try:
        resolved.check()
    except UsageError as error:
        raise UsageError(f"suite {name}: {error}") from None
    return resolved


def _preset(name: str, column: str, chosen: Column) -> Mapping[str, Any]:
    """Return the parameters of the column's preset; none if it names none."""
    presets = ATTACKS.get(chosen.attack or column).presets
    if chosen.preset is None:
        return {}
    if chosen.preset not in presets:
        raise UsageError(
            f"suite {name}: attack {chosen.attack or column!r} has no preset {chosen.preset!r}; it "
            f"has: {', '.join(presets) or 'none'}"
        )
    preset: Mapping[str, Any] = presets[chosen.preset]
    return preset


def known_parameters(column: str, chosen: Column) -> list[str]:
    """Return the names of the parameters that a column's attack has."""
    return parameter_names(ATTACKS.get(chosen.attack or column), chosen.parameters)


def having_parameter(columns: Mapping[str, Column], parameter: str, where: str) -> list[str]:
    """Return the columns whose attack has a parameter.

    Raises:
        UsageError: there is none.
    """
    known = {column: known_parameters(column, chosen) for column, chosen in columns.items()}
    having = [column for column in columns if parameter in known[column]]
    if not having:
        every = sorted({p for parameters in known.values() for p in parameters})
        raise UsageError(
            f"{where}: no attack of the suite has a parameter {parameter!r}; "
            f"there is {', '.join(every) or 'none'}{nearest(parameter, every)}"
        )
    return having


def _filter(text: str) -> tuple[str, list[str]]:
    field, equals, values = text.partition("=")
    if not equals or field not in Cell.model_fields:
        raise UsageError(
            f"--only {text!r} is not of the form FIELD=VALUE[,VALUE] with one of the fields "
            f"{', '.join(Cell.model_fields)}"
        )
    return field, values.split(",")


def _matches(
    cell: Cell, aliases: Mapping[str, str | None], field: str, values: Sequence[str]
) -> bool:
    """Whether a field, or what the suite calls it, matches one of the globs."""
    found = {str(getattr(cell, field)), str(aliases.get(field, getattr(cell, field)))}
    return any(fnmatchcase(text, value) for text in found for value in values)
