"""Checks that all kinds share: a plugin is a frozen dataclass that documents its parameters."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from leakbench.base.errors import UsageError
from leakbench.base.plugins import build, parameters_of
from leakbench.conformance.check import FindingError, Trial, checks


def is_a_frozen_dataclass(trial: Trial) -> None:
    """Its fields are its parameters, and nothing changes them."""
    made = vars(trial.plugin).get("__dataclass_params__")
    if made is None:
        raise FindingError(
            f"{trial} is no dataclass; put @dataclass(frozen=True, kw_only=True) under its "
            f"register decorator"
        )
    if not made.frozen:
        raise FindingError(
            f"{trial} is a dataclass that can be changed; write @dataclass(frozen=True, "
            f"kw_only=True)"
        )


def documents_every_parameter(trial: Trial) -> None:
    """`leakbench show` explains parameters by the docstring."""
    plugin = trial.plugin
    text = vars(plugin).get("__doc__") or ""
    # The docstring of a dataclass that has none is its signature.
    if not text.strip() or text.startswith(f"{plugin.__name__}("):
        raise FindingError(f"{trial} has no docstring; say what it does, in a sentence or more")
    for field in fields(plugin):
        if not any(f"{field.name}:" in (base.__doc__ or "") for base in plugin.__mro__):
            raise FindingError(
                f"{trial} does not say what its parameter {field.name!r} is; add `{field.name}: …` "
                f"under `Attributes:` of its docstring"
            )


def has_parameters_that_a_record_can_hold(trial: Trial) -> None:
    """A record is JSON, and a cell is run again from what its record says."""
    parameters = parameters_of(trial.built)
    try:
        text = json.dumps(parameters, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise FindingError(
            f"{trial} has parameters that are not JSON ({error}); let its fields be numbers, "
            f"strings, booleans, lists and tables of those"
        ) from None
    try:
        again = build(trial.registry, trial.name, json.loads(text))
    except UsageError as error:
        raise FindingError(
            f"{trial} cannot be built from its own parameters as JSON ({error}); annotate its "
            f"fields with types that pydantic reads back"
        ) from None
    if again != trial.built:
        raise FindingError(
            f"{trial} differs after it is built from its own parameters as JSON; annotate its "
            f"fields with the types that they have"
        )


def refuse_empty(trial: Trial, *attributes: str) -> None:
    """Refuse a plugin that leaves one of its descriptions out.

    Raises:
        FindingError: names the attribute.
    """
    for attribute in attributes:
        value: Any = getattr(trial.plugin, attribute, None)
        if not isinstance(value, str) or not value.strip():
            raise FindingError(
                f"{trial} has no {attribute!r}; write `{attribute} = …` in its class, a string"
            )


DECLARATIONS = checks(
    is_a_frozen_dataclass,
    documents_every_parameter,
    has_parameters_that_a_record_can_hold,
)
