"""What `--set KEY=VALUE` changes in a suite."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from leakbench.base.errors import UsageError
from leakbench.base.plugins import build, parameter_names
from leakbench.base.registry import ATTACKS
from leakbench.base.toml import parsed_toml
from leakbench.experiments.cell import Cell
from leakbench.experiments.expansion import columns_of, having_parameter, known_parameters
from leakbench.experiments.suite import (
    ATTACK_FIELDS,
    PLUGIN_FIELDS,
    SWEPT,
    Group,
    GroupColumn,
    Suite,
)


def override(suite: Suite, settings: Iterable[str]) -> Suite:
    """Return the suite with `KEY=VALUE` settings in place of its own.

    A key is a cell field or `attack.PARAMETER` (several values are swept),
    `attack.COLUMN.PARAMETER`, or `dataset.`, `model.` or `defense.` and a parameter.
    Presets and fallbacks (`attack.preset`, `attack.COLUMN.fallback`, …) come first, whatever their
    place: other settings are laid over a preset, or are parameters of a fallback.

    Raises:
        UsageError: a setting is malformed or names nothing.
    """
    changed = suite.model_copy(deep=True)
    for setting in sorted(settings, key=_precedence):
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {setting!r} is not of the form KEY=VALUE")
        value = value_of(text)
        head, _, rest = key.partition(".")
        if head == "attack" and rest:
            column, dot, parameter = rest.rpartition(".")
            chosen = _columns_named(changed, setting, column) if dot else list(changed.attack)
            if parameter == "preset":
                _set_preset(changed, setting, chosen, value)
            else:
                _set_attack_parameter(changed, setting, chosen, parameter, value)
        elif head in PLUGIN_FIELDS and rest:
            _set_plugin_parameter(changed, head, rest, value)
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


def _precedence(setting: str) -> int:
    """Return the place of a setting: presets, then fallbacks, which decide about parameters."""
    first = re.match(r"attack\.(?:[^=]*\.)?(preset|fallback)=", setting)
    return 2 if first is None else ("preset", "fallback").index(first[1])


def _columns_named(suite: Suite, setting: str, column: str) -> list[str]:
    if column not in suite.attack:
        raise UsageError(
            f"--set {setting.partition('=')[0]}: the suite has no column {column!r}; it has "
            f"{', '.join(suite.attack)}"
        )
    return [column]


def _set_attack_parameter(
    suite: Suite, setting: str, chosen: Sequence[str], parameter: str, value: Any
) -> None:
    """Set a parameter of those chosen columns that have it; several values are swept."""
    key = setting.partition("=")[0]
    columns = {column: suite.attack[column] for column in chosen}
    having = having_parameter(columns, parameter, f"--set {key}")
    everywhere = key == f"{SWEPT}{parameter}"
    several = isinstance(value, list) and not all(
        _takes(columns[column].attack or column, parameter, value) for column in having
    )
    if several and not everywhere:
        raise UsageError(
            f"--set {setting}: several values are swept in all columns at once; "
            f"use --set {setting.replace(key, f'{SWEPT}{parameter}', 1)}"
        )
    for group in suite.group:
        for column in having:
            if column in group.attack:
                group.attack[column].parameters.pop(parameter, None)
        if everywhere:
            _set_sweep(suite, group, parameter, value if several else [value], several)
        elif f"{SWEPT}{parameter}" in group.sweep:
            group.attack = group.attack or {
                column: GroupColumn() for column in suite.default_columns
            }
            for column in {*having} & {*group.attack}:
                group.attack[column].parameters[parameter] = value
    if not several:
        for column in having:
            suite.attack[column].parameters[parameter] = value


def _set_sweep(
    suite: Suite, group: Group, parameter: str, values: list[Any], several: bool
) -> None:
    """Let a group sweep a parameter over other values, or over several where it did not."""
    known = [p for c, entry in columns_of(suite, group).items() for p in known_parameters(c, entry)]
    if f"{SWEPT}{parameter}" in group.sweep or (several and parameter in known):
        group.sweep[f"{SWEPT}{parameter}"] = values


def _takes(plugin: str, parameter: str, value: Any) -> bool:
    """Whether an attack takes a list as one value of a parameter."""
    try:
        build(ATTACKS, plugin, {parameter: value})
    except UsageError:
        return False
    return True


def _set_preset(suite: Suite, setting: str, chosen: Sequence[str], value: Any) -> None:
    """Set the preset of those chosen columns whose attack has one of that name.

    Its parameters take the place of those that the suite gives.
    """
    presets = {c: ATTACKS.get(suite.attack[c].attack or c).presets for c in chosen}
    having = [column for column in chosen if value in list(presets[column])]
    if not having:
        every = dict.fromkeys(name for column in chosen for name in presets[column])
        raise UsageError(
            f"--set {setting}: no attack of the suite has a preset {value!r}; there is "
            f"{', '.join(every) or 'none'}"
        )
    for column in having:
        suite.attack[column].preset = value
        for parameter in presets[column][value]:
            suite.attack[column].parameters.pop(parameter, None)
        for group in suite.group:
            if column in group.attack:
                group.attack[column].preset = None
                for parameter in presets[column][value]:
                    group.attack[column].parameters.pop(parameter, None)


def _set_plugin_parameter(suite: Suite, field: str, parameter: str, value: Any) -> None:
    """Set a data set's, model's or defense's parameter wherever its parameters are given.

    Where a suite has several plugins, those that have the parameter take it.
    """
    places = _parameters_given(suite, field)
    names = {name for of, _ in places for name in of if name}
    known = {name: _parameters(field, name) for name in names}
    having = {name for name, of in known.items() if parameter in of}
    if len(known) > 1 and not having:
        raise UsageError(
            f"--set {field}.{parameter}: no {PLUGIN_FIELDS[field].kind} of the suite has a "
            f"parameter {parameter!r}; there is {', '.join(sorted(set().union(*known.values())))}"
        )
    for of, parameters in places:
        if having.intersection(of) or not having:
            parameters[parameter] = value


Place = tuple[list[str], dict[str, Any]]
"""The names of the plugins that parameters are for, and these parameters."""


def _parameters_given(suite: Suite, field: str) -> list[Place]:
    """Return all places in which a suite gives parameters of a data set, a model or a defense."""
    given = f"{field}_parameters"
    usual = suite.cell.get(field, Cell.model_fields[field].default)
    unnamed: list[str] = []
    places: list[Place] = []
    for group in suite.group:
        plugins = group.sweep.get(field) or [group.cell.get(field, usual)]
        names = [plugin for plugin in plugins if isinstance(plugin, str)]
        own = [group.cell.get(given), *group.sweep.get(given, [])]
        places += [(names, parameters) for parameters in own if parameters is not None]
        if own == [None]:
            unnamed += names
        places += [
            ([str(plugin.get("name"))], plugin)
            for plugin in (group.cell.get(field), *group.sweep.get(field, []))
            if isinstance(plugin, dict)
        ]
    if isinstance(usual, dict):
        return [*places, ([str(usual.get("name"))], usual)]
    return [*places, (unnamed, suite.cell.setdefault(given, {}))]


def _parameters(field: str, name: str) -> list[str]:
    return parameter_names(PLUGIN_FIELDS[field].get(name))


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


def parameters_from(settings: Iterable[str]) -> dict[str, Any]:
    """Return the parameters that `PARAMETER=VALUE` settings give.

    Raises:
        UsageError: one is not of that form.
    """
    parameters = {}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name:
            raise UsageError(f"--set {setting!r} is not of the form PARAMETER=VALUE")
        parameters[name] = value_of(text)
    return parameters


def value_of(text: str) -> Any:
    """Return a TOML value, a comma-separated list of them, or the text itself."""
    try:
        return parsed_toml(f"value = {text}")["value"]
    except ValueError:
        return [value_of(part) for part in text.split(",")] if "," in text else text
