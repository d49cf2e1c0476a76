"""Plugins from their names and parameters.

Attacks, data sets, models and defenses are frozen dataclasses: their fields are their parameters.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Self

from pydantic import TypeAdapter, ValidationError

from leakbench.base.canonical import exact
from leakbench.base.errors import UsageError, nearest
from leakbench.base.limits import MOST
from leakbench.base.registry import Registry


@dataclass(frozen=True)
class PluginSpec:
    """A plugin by its name, and those of its parameters that are not at their defaults.

    Suites, commands and defenses write it as a table, `{ name = "gaussian", sigma = 0.01 }`.
    """

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str) -> Self:
        """Return what a table of a name and parameters says.

        Args:
            where: the table's place, which an error names.

        Raises:
            UsageError: it has no name.
        """
        if not isinstance(table.get("name"), str):
            raise UsageError(
                f'{where}: {dict(table)} has no name; write {{ name = "NAME", PARAMETER = VALUE }}'
            )
        return cls(table["name"], {key: v for key, v in table.items() if key != "name"})

    @classmethod
    def of(cls, plugin: Any) -> Self:
        """Return the name of a plugin and all its parameters, defaults included."""
        return cls(plugin.name, parameters_of(plugin))

    def table(self) -> dict[str, Any]:
        """Return the table that `from_table` reads."""
        return {"name": self.name, **self.parameters}

    def build(self, registry: Registry) -> Any:
        """Return the plugin; see `build`."""
        return build(registry, self.name, self.parameters)


class FlatParameters(ABC):
    """A plugin that holds other plugins, whose parameters stand beside its own.

    Cells, suites, `--set` and records know one flat list of parameters. A plugin that is composed
    of others derives from this class and says how its fields come from that list.
    """

    @classmethod
    @abstractmethod
    def flat_names(cls, given: Mapping[str, Any]) -> list[str]:
        """Return the names of all parameters, those of the plugins that it holds included.

        Args:
            given: some of the parameters, which may choose the plugins that it holds.
        """

    @classmethod
    @abstractmethod
    def from_flat(cls, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the fields that flat parameters mean.

        Raises:
            UsageError: a parameter is unknown, or does not fit.
        """

    @abstractmethod
    def to_flat(self) -> dict[str, Any]:
        """Return all parameters, as cells and records hold them."""


def build(registry: Registry, name: str, parameters: Mapping[str, Any]) -> Any:
    """Return the plugin `name` with `parameters`, those left out at their defaults.

    Raises:
        UsageError: the plugin, or one of the parameters, is unknown, or a value does not fit.
    """
    plugin = registry.get(name)
    known = parameter_names(plugin, parameters)
    for parameter, value in parameters.items():
        if parameter not in known:
            raise UsageError(
                f"{registry.kind} {name!r} has no parameter {parameter!r}; "
                f"it has: {', '.join(known) or 'none'}{nearest(parameter, known)}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{registry.kind} {name!r}: {parameter} must be finite (got {value})")
        if isinstance(value, int) and value > MOST and _is_counted(plugin, parameter):
            raise UsageError(
                f"{registry.kind} {name!r}: {parameter} must be at most {MOST} (got "
                f"{_shown(value)})"
            )
    fields = plugin.from_flat(parameters) if issubclass(plugin, FlatParameters) else parameters
    try:
        return _adapter(plugin).validate_python(dict(fields))
    except ValidationError as error:
        raise UsageError(f"{registry.kind} {name!r}: {sentence(error)}") from None


def _is_counted(plugin: type, parameter: str) -> bool:
    """Whether a parameter is a number of things, and states no limit of its own."""
    declared = _adapter(plugin).json_schema().get("properties", {}).get(parameter, {})
    return not parameter.endswith(SEED) and "maximum" not in declared


SEED = "seed"
"""The end of names of parameters that are whole numbers, but count nothing."""


@cache
def _adapter(plugin: type) -> TypeAdapter[Any]:
    """Return what validates a plugin's parameters; making it takes longer than building many."""
    return TypeAdapter(plugin)


class SharedPlugins:
    """The plugins of many cells; those with the same name and parameters are built once.

    Building them takes most of the time that large suites take, and folders of many records.
    """

    def __init__(self) -> None:
        self._built: dict[tuple[str, str, bytes | str], tuple[Any, dict[str, Any]]] = {}

    def get(self, registry: Registry, spec: PluginSpec) -> tuple[Any, dict[str, Any]]:
        """Return a plugin and all its parameters.

        Raises:
            UsageError: see `build`.
        """
        # In neither are 1, 1.0 and true the same.
        parameters = exact(spec.parameters) or repr(spec.parameters)
        place = (registry.kind, spec.name, parameters)
        if place not in self._built:
            plugin = spec.build(registry)
            self._built[place] = plugin, parameters_of(plugin)
        return self._built[place]


def parameter_names(plugin: Any, given: Mapping[str, Any] | None = None) -> list[str]:
    """Return the names of the parameters that a plugin takes, in their order.

    Args:
        given: some of its parameters, where they decide which others there are.
    """
    if issubclass(plugin, FlatParameters):
        names: list[str] = plugin.flat_names(given or {})
        return names
    return [each.name for each in dataclasses.fields(plugin)]


def parameters_of(plugin: Any) -> dict[str, Any]:
    """Return all parameters of a plugin, defaults included, as cells and records hold them."""
    if isinstance(plugin, FlatParameters):
        return plugin.to_flat()
    return dataclasses.asdict(plugin)


def sentence(error: ValidationError) -> str:
    """Return the first fault that pydantic found as `key: what is wrong (got value)`."""
    fault = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in fault["loc"]) or "value"
    if fault["type"] == "extra_forbidden":
        return f"unknown key {where!r}"
    if fault["type"] == "missing":
        return f"key {where!r} is missing"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {message[:1].lower()}{message[1:]} (got {_shown(fault['input'])})"


SHOWN = 200
"""Characters of a wrong value that a message shows."""


def _shown(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is too large to show"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
