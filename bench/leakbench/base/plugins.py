"""Plugins from their names and parameters.

Attacks, data sets, models and defenses are frozen dataclasses: their fields are their parameters.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from leakbench.base.errors import UsageError
from leakbench.base.registry import Registry


def build(registry: Registry, name: str, parameters: Mapping[str, Any]) -> Any:
    """Return the plugin `name` with `parameters`, those left out at their defaults.

    Raises:
        UsageError: the plugin, or one of the parameters, is unknown, or a value does not fit.
    """
    plugin = registry.get(name)
    known = [field.name for field in dataclasses.fields(plugin)]
    for parameter in parameters:
        if parameter not in known:
            raise UsageError(
                f"{registry.kind} {name!r} has no parameter {parameter!r}; "
                f"it has: {', '.join(known) or 'none'}"
            )
    for parameter, value in parameters.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise UsageError(f"{registry.kind} {name!r}: {parameter} must be finite (got {value})")
    try:
        return _adapter(plugin).validate_python(dict(parameters))
    except ValidationError as error:
        raise UsageError(f"{registry.kind} {name!r}: {sentence(error)}") from None


@cache
def _adapter(plugin: type) -> TypeAdapter[Any]:
    """Return what validates a plugin's parameters; making it takes longer than building many."""
    return TypeAdapter(plugin)


def parameters_of(plugin: Any) -> dict[str, Any]:
    """Return all parameters of a plugin, defaults included."""
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
    return f"{where}: {message[:1].lower()}{message[1:]} (got {fault['input']!r})"
