"""Suites: TOML files that say which cells to measure and how to lay them out."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from itertools import product
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.cells import Cell
from bench.errors import UsageError
from bench.plugins import build, parameters_of, sentence
from bench.registry import ATTACKS, DATASETS, DEFENSES, MODELS
from bench.threat import Attack, Knowledge, check_grant

FOLDER = Path(__file__).parent / "suites"

Layout = Literal["table1", "table2"]

PLUGIN_FIELDS = {"dataset": DATASETS, "model": MODELS, "defense": DEFENSES}
"""Cell fields that name a plugin whose parameters are in `<field>_parameters`."""

ATTACK_FIELDS = {"attack", "attack_parameters"}
"""Cell fields that a suite's columns fill in."""


class Column(BaseModel):
    """An attack or control of a suite: one column of its tables.

    Attributes:
        attack: the registered attack, if it is not the column's own name.
        title: the column's heading, if it is not the attack's.
        parameters: those that differ from the attack's defaults.
        grant: what this column's cells grant, if it is not what the others grant.
    """

    model_config = ConfigDict(extra="forbid")

    attack: str | None = None
    title: str | None = None
    parameters: dict[str, Any] = {}
    grant: tuple[str, ...] | None = None


class Group(BaseModel):
    """Cells that make one table.

    Attributes:
        title: the table's heading.
        layout: the paper's table whose layout it follows.
        cell: cell fields that differ from the suite's.
        sweep: cell field → values; every combination is measured.
    """

    model_config = ConfigDict(extra="forbid")

    title: str
    layout: Layout
    cell: dict[str, Any] = {}
    sweep: dict[str, list[Any]] = {}


class Suite(BaseModel):
    """A suite file.

    Attributes:
        title: what it measures.
        cell: cell fields common to all groups.
        attack: its columns by name.
        group: its tables.
    """

    model_config = ConfigDict(extra="forbid")

    title: str
    cell: dict[str, Any] = {}
    attack: dict[str, Column]
    group: list[Group]


@dataclass(frozen=True)
class Planned:
    """A cell of a suite and where it stands: in which group and under which column."""

    cell: Cell
    key: str
    group: str
    layout: Layout
    column: str
    work: float


def suite_names(pattern: str = "*") -> list[str]:
    """Return the names of the suites that come with leakbench."""
    return sorted(p.stem for p in FOLDER.glob("*.toml") if fnmatchcase(p.stem, pattern))


def load_suite(name: str) -> tuple[str, Suite]:
    """Return name and content of a suite: one of ours, or a TOML file of the user's.

    Raises:
        UsageError: there is no such suite, or the file has an unknown key or a wrong value.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if not path.is_file():
        near = get_close_matches(name, suite_names(), n=3, cutoff=0.4) or suite_names()
        raise UsageError(
            f"unknown suite {name!r}; did you mean {', '.join(near)}, or the path of a .toml file?"
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        suite = Suite.model_validate(content)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"suite file {path} is no valid TOML: {error}") from None
    except ValidationError as error:
        raise UsageError(f"suite file {path}: {sentence(error)}") from None
    for table in [suite.cell, *(part for g in suite.group for part in (g.cell, g.sweep))]:
        for field in table:
            if field not in Cell.model_fields or field in ATTACK_FIELDS:
                raise UsageError(f"suite file {path}: unknown key {field!r} of a cell")
    if not suite.attack or not suite.group:
        raise UsageError(f"suite file {path}: it needs at least one [attack.…] and one [[group]]")
    return path.stem, suite


def override(suite: Suite, settings: Iterable[str]) -> Suite:
    """Return the suite with `KEY=VALUE` settings in place of its own.

    A key is a cell field (several values are swept), `attack.PARAMETER`, `attack.COLUMN.PARAMETER`,
    or `dataset.`, `model.` or `defense.` and a parameter.

    Raises:
        UsageError: a setting is malformed or names nothing.
    """
    changed = suite.model_copy(deep=True)
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting!r} is not of the form KEY=VALUE")
        value = _value(text)
        head, _, rest = key.partition(".")
        if head == "attack" and rest:
            _set_attack_parameter(changed, rest, value)
        elif head in PLUGIN_FIELDS and rest:
            _set_plugin_parameter(changed, f"{head}_parameters", rest, value)
        elif key in ATTACK_FIELDS:
            raise UsageError(
                f"--set {key}: a suite's columns are its attacks; choose some with "
                f"--only attack=NAME, or change one with --set attack.PARAMETER=VALUE"
            )
        elif key in Cell.model_fields:
            _set_field(changed, key, value)
        else:
            near = get_close_matches(key, Cell.model_fields, n=3, cutoff=0.4)
            raise UsageError(
                f"--set {key}: no such setting; did you mean "
                f"{', '.join(near) or 'attack.PARAMETER, ' + ', '.join(Cell.model_fields)}?"
            )
    return changed


def expand(name: str, suite: Suite, only: Iterable[str] = ()) -> list[Planned]:
    """Return the suite's cells in order, each with the parameters of its plugins filled in.

    Args:
        only: filters `FIELD=VALUE[,VALUE…]` on cell fields; globs are allowed.

    Raises:
        UsageError: a field or parameter does not fit, an attack is not granted what it needs, or no
            cell is left.
    """
    filters = [_filter(text) for text in only]
    titles = {c: e.title or ATTACKS.get(e.attack or c).title for c, e in suite.attack.items()}
    # Two columns of one attack are told apart by their own names.
    headings = {c: t if list(titles.values()).count(t) == 1 else c for c, t in titles.items()}
    planned = []
    for group in suite.group:
        for field, values in group.sweep.items():
            if not values:
                raise UsageError(f"suite {name}: the sweep of {field!r} is empty")
        for fields in _combinations(suite.cell | group.cell, group.sweep):
            for column, entry in suite.attack.items():
                cell, attack = _cell(name, fields, column, entry)
                aliases = {"attack": column, "main_task": fields.get("main_task")}
                if all(_matches(cell, aliases, field, values) for field, values in filters):
                    planned.append(
                        Planned(
                            cell=cell,
                            key=cell.key(attack.version),
                            group=group.title,
                            layout=group.layout,
                            column=headings[column],
                            work=cell.individuals * attack.work(cell.batch_size),
                        )
                    )
    if not planned:
        raise UsageError(f"suite {name}: no cell is left by --only {' --only '.join(only)}")
    return planned


def _combinations(
    fields: Mapping[str, Any], sweep: Mapping[str, Sequence[Any]]
) -> Iterator[dict[str, Any]]:
    for values in product(*sweep.values()):
        yield {**fields, **dict(zip(sweep, values, strict=True))}


def _cell(name: str, fields: dict[str, Any], column: str, entry: Column) -> tuple[Cell, Attack]:
    plugin = entry.attack or column
    attack: Attack = build(ATTACKS, plugin, entry.parameters)
    complete = {**fields, "attack": plugin, "attack_parameters": parameters_of(attack)}
    if entry.grant is not None:
        complete["grant"] = entry.grant
    try:
        cell = Cell.model_validate(complete)
    except ValidationError as error:
        raise UsageError(f"suite {name}: {sentence(error)}") from None
    for field, registry in PLUGIN_FIELDS.items():
        built = build(registry, getattr(cell, field), getattr(cell, f"{field}_parameters"))
        complete[f"{field}_parameters"] = parameters_of(built)
        if field == "dataset":
            complete["main_task"] = built.main_tasks().get(cell.main_task, cell.main_task)
    check_grant(attack, Knowledge.parse(cell.grant))
    if cell.individuals % cell.batch_size:
        raise UsageError(
            f"suite {name}: {cell.individuals} individuals cannot be divided into batches of "
            f"{cell.batch_size}; set `individuals` to a multiple"
        )
    return Cell.model_validate(complete), attack


def _set_attack_parameter(suite: Suite, key: str, value: Any) -> None:
    """Set a parameter of the column that is named, or of all columns that have it."""
    column, dot, parameter = key.partition(".")
    chosen = [column] if dot else list(suite.attack)
    parameter = parameter if dot else key
    if dot and column not in suite.attack:
        raise UsageError(
            f"--set attack.{key}: the suite has no column {column!r}; it has "
            f"{', '.join(suite.attack)}"
        )
    known = {name: parameters_of(_plugin(suite, name)) for name in suite.attack}
    having = [name for name in chosen if parameter in known[name]]
    if not having:
        every = sorted({p for name in chosen for p in known[name]})
        raise UsageError(
            f"--set attack.{key}: no attack of the suite has a parameter {parameter!r}; "
            f"there is {', '.join(every) or 'none'}"
        )
    for name in having:
        suite.attack[name].parameters[parameter] = value


def _set_plugin_parameter(suite: Suite, field: str, parameter: str, value: Any) -> None:
    """Set a data set's, model's or defense's parameter wherever its parameters are given."""
    suite.cell.setdefault(field, {})[parameter] = value
    for group in suite.group:
        for parameters in [group.cell.get(field), *group.sweep.get(field, [])]:
            if parameters is not None:
                parameters[parameter] = value


def _plugin(suite: Suite, column: str) -> Any:
    entry = suite.attack[column]
    return build(ATTACKS, entry.attack or column, entry.parameters)


def _set_field(suite: Suite, field: str, value: Any) -> None:
    """Set a cell field everywhere; several values are swept, unless the field is a list itself."""
    swept = isinstance(value, list) and field not in {"properties", "grant"}
    if field in {"properties", "grant"} and not isinstance(value, list):
        value = [value]
    if field in PLUGIN_FIELDS:
        _drop_parameters_of_others(suite, field, value)
    for table in [suite.cell, *(part for g in suite.group for part in (g.cell, g.sweep))]:
        table.pop(field, None)
    for group in suite.group:
        (group.sweep if swept else group.cell)[field] = value


def _drop_parameters_of_others(suite: Suite, field: str, value: Any) -> None:
    """Drop the parameters of a plugin that gives way to another; those of the same one stay."""
    for group in suite.group:
        if group.sweep.get(field, group.cell.get(field, suite.cell.get(field))) != value:
            group.cell.pop(f"{field}_parameters", None)
            group.sweep.pop(f"{field}_parameters", None)
    if suite.cell.get(field) != value:
        suite.cell.pop(f"{field}_parameters", None)


def _value(text: str) -> Any:
    """Return a TOML value, a comma-separated list of them, or the text itself."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return [_value(part) for part in text.split(",")] if "," in text else text


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
