"""Suites: TOML files that say which cells to measure and how to lay them out."""

from __future__ import annotations

from copy import deepcopy
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from leakbench.base.errors import UsageError
from leakbench.base.files import read_regular
from leakbench.base.plugins import sentence
from leakbench.base.registry import DATASETS, DEFENSES, MODELS
from leakbench.base.toml import parsed_toml
from leakbench.experiments.cell import Cell

FOLDER = Path(__file__).parent / "suites"

Layout = Literal["table1", "table2", "table3", "budget", "defense", "exact", "membership"]

PLUGIN_FIELDS = {
    "dataset": DATASETS,
    "auxiliary_dataset": DATASETS,
    "model": MODELS,
    "defense": DEFENSES,
}
"""Cell fields that name a plugin, if any, whose parameters are in `<field>_parameters`."""

ATTACK_FIELDS = {"attack", "attack_parameters"}
"""Cell fields that a suite's columns fill in."""

SWEPT = "attack."
"""Before the name of an attack's parameter in a sweep."""


class GroupColumn(BaseModel):
    """What a group changes in one of the suite's columns.

    Attributes:
        title: the column's heading, if it is not the attack's.
        preset: the attack's preset over which `parameters` are laid, if not its defaults.
        parameters: those that differ from the preset.
        grant: what this column's cells grant, if it is not what the others grant.
    """

    model_config = ConfigDict(extra="forbid")

    title: str | None = None
    preset: str | None = None
    parameters: dict[str, Any] = {}
    grant: tuple[str, ...] | None = None


class Column(GroupColumn):
    """An attack or control of a suite: one column of its tables.

    Attributes:
        attack: the registered attack, if it is not the column's own name.
        default: whether groups that name no columns have it.
    """

    attack: str | None = None
    default: bool = True


class Group(BaseModel):
    """Cells that make one table.

    Attributes:
        title: the table's heading.
        preset: the suite's preset whose cell fields it has.
        layout: the paper's table whose layout it follows; `budget` sweeps the attacks' budget, and
            `defense` says beside each defense what it costs; `exact` has the share of individuals
            found exactly in place of properties.
        cell: cell fields that differ from the suite's, and from the preset's.
        sweep: cell field, or `attack.PARAMETER`, → values; every combination is measured. A column
            whose attack has no such parameter, or to which the group gives it, stands unchanged
            beside the others. A value of a field that names a plugin may be a table of its `name`
            and parameters.
        attack: its columns, and what it changes in them; without any it has the suite's default
            columns.
        optional: whether its cells are left out where their data set is not there; the table then
            says what they need.
        limit: the largest batch size whose individuals the equations may tell apart, for figures.
    """

    model_config = ConfigDict(extra="forbid")

    title: str
    layout: Layout
    preset: str | None = None
    optional: bool = False
    limit: Annotated[int, Field(gt=0)] | None = None
    cell: dict[str, Any] = {}
    sweep: dict[str, list[Any]] = {}
    attack: dict[str, GroupColumn] = {}

    @field_validator("sweep", mode="before")
    @classmethod
    def _join_dotted_keys(cls, sweep: Any) -> Any:
        """Take `attack.budget = …`, which TOML reads as a table, for `"attack.budget" = …`."""
        if not isinstance(sweep, dict) or not isinstance(sweep.get("attack"), dict):
            return sweep
        joined = {f"{SWEPT}{parameter}": v for parameter, v in sweep["attack"].items()}
        return {key: v for key, v in sweep.items() if key != "attack"} | joined


class Suite(BaseModel):
    """A suite file.

    Attributes:
        title: what it measures.
        cell: cell fields common to all groups.
        preset: name → cell fields that belong together, e.g. a pretrained model and how it is
            trained, for the groups that name it.
        attack: its columns by name.
        group: its tables.
    """

    model_config = ConfigDict(extra="forbid")

    title: str
    cell: dict[str, Any] = {}
    preset: dict[str, dict[str, Any]] = {}
    attack: dict[str, Column]
    group: list[Group]

    @property
    def default_columns(self) -> dict[str, Column]:
        """The columns of groups that name none."""
        return {name: column for name, column in self.attack.items() if column.default}


def suite_names(pattern: str = "*") -> list[str]:
    """Return the names of the suites that come with leakbench."""
    return sorted(p.stem for p in FOLDER.glob("*.toml") if fnmatchcase(p.stem, pattern))


def load_suite(name: str) -> tuple[str, Suite]:
    """Return name and content of a suite: one of ours, or a TOML file of the user's.

    Raises:
        UsageError: there is no such suite, or the file has an unknown key or a wrong value.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    try:
        # A FIFO is read, and refused, below.
        missing = not path.exists() or path.is_dir()
    except OSError:
        # The name is too long.
        missing = True
    if missing:
        near = get_close_matches(name, suite_names(), n=3, cutoff=0.4) or suite_names()
        raise UsageError(
            f"unknown suite {name!r}; did you mean {', '.join(near)}, or the path of a .toml file?"
        )
    try:
        suite = Suite.model_validate(parsed_toml(read_regular(path).decode("utf-8")))
    except OSError as error:
        raise UsageError(f"suite file {path} cannot be read: {error.strerror}") from None
    except ValidationError as error:
        raise UsageError(f"suite file {path}: {sentence(error)}") from None
    except ValueError as error:
        raise UsageError(f"suite file {path} is no valid TOML: {error}") from None
    tables = [suite.cell, *suite.preset.values()]
    for table in [*tables, *(part for g in suite.group for part in (g.cell, g.sweep))]:
        for field in table:
            swept = any(table is g.sweep for g in suite.group) and field.startswith(SWEPT)
            if not swept and (field not in Cell.model_fields or field in ATTACK_FIELDS):
                raise UsageError(f"suite file {path}: unknown key {field!r} of a cell")
    if not suite.attack or not suite.group:
        raise UsageError(f"suite file {path}: it needs at least one [attack.…] and one [[group]]")
    for group in suite.group:
        _check_group(path, suite, group)
        _fill_in_preset(path, suite, group)
        _refuse_ignored_parameters(path, suite, group)
    return path.stem, suite


def _fill_in_preset(path: Path, suite: Suite, group: Group) -> None:
    """Give a group the cell fields of its preset, below its own.

    Its own parameters of a plugin are laid over those of the preset's.
    """
    if group.preset is None:
        return
    if group.preset not in suite.preset:
        raise UsageError(
            f"suite file {path}: group {group.title!r} names a preset {group.preset!r} that the "
            f"suite has not; it has {', '.join(suite.preset) or 'none'}"
        )
    preset = deepcopy(suite.preset[group.preset])
    for field in PLUGIN_FIELDS:
        own = group.cell.get(f"{field}_parameters")
        if isinstance(preset.get(field), dict) and field not in group.cell and own is not None:
            # The group changes parameters of the preset's plugin.
            preset[field] |= group.cell.pop(f"{field}_parameters")
    group.cell = preset | group.cell


def _refuse_ignored_parameters(path: Path, suite: Suite, group: Group) -> None:
    """Refuse a plugin's parameters beside a table of its name and parameters, which would count."""
    for field in PLUGIN_FIELDS:
        given = f"{field}_parameters"
        beside = given in group.cell or given in group.sweep
        plugins = group.sweep.get(field) or [group.cell.get(field, suite.cell.get(field))]
        if beside and any(isinstance(plugin, dict) for plugin in plugins):
            raise UsageError(
                f"suite file {path}: group {group.title!r} has {given} beside {field} = {{ name = "
                f"…, … }}, whose parameters count; write them into that table"
            )


def _check_group(path: Path, suite: Suite, group: Group) -> None:
    where = f"suite file {path}: group {group.title!r}"
    for column in group.attack:
        if column not in suite.attack:
            raise UsageError(
                f"{where} has a column {column!r} that the suite has not; it has "
                f"{', '.join(suite.attack)}"
            )
    if not group.attack and not suite.default_columns:
        raise UsageError(
            f"{where} names no columns, and no column of the suite is a default one; add "
            f"[group.attack.…]"
        )
    if group.layout == "budget" and f"{SWEPT}budget" not in group.sweep:
        raise UsageError(
            f"{where} is laid out by budget but does not sweep it; add "
            f'"{SWEPT}budget" = [100, 300] to its `sweep`'
        )
