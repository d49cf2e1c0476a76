"""A check: a rule that a plugin of some kind keeps or breaks."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from leakbench.base.devices import computing_reproducibly
from leakbench.base.errors import UsageError
from leakbench.base.markdown import one_line
from leakbench.base.plugins import build
from leakbench.base.registry import Registry


class FindingError(UsageError):
    """What a plugin does that it must not: one sentence that names it and the way out."""


class NotCheckedError(Exception):
    """Why a check does not apply here."""


@dataclass(frozen=True)
class Check:
    """One rule.

    Attributes:
        name: in words.
        run: takes a trial, raises `FindingError` where the plugin breaks the rule.
    """

    name: str
    run: Callable[[Any], None]

    def __str__(self) -> str:
        return self.name


def checks(*functions: Callable[[Any], None]) -> tuple[Check, ...]:
    """Return checks named after their functions."""
    return tuple(Check(each.__name__.replace("_", " "), each) for each in functions)


@dataclass(frozen=True)
class Trial:
    """A registered plugin on trial.

    Attributes:
        registry: of its kind.
        name: of the plugin.
        parameters: with which it is tried, over those that it says it can be tried with.
    """

    registry: Registry
    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def __str__(self) -> str:
        return f"{self.registry.kind} {self.name!r}"

    @property
    def plugin(self) -> Any:
        """Its class."""
        return self.registry.get(self.name)

    @cached_property
    def built(self) -> Any:
        """The plugin with the parameters with which it is tried."""
        example = getattr(self.plugin, "example_parameters", {})
        return build(self.registry, self.name, {**example, **self.parameters})

    @property
    def file(self) -> Path:
        """The file that defines it."""
        return Path(inspect.getfile(self.plugin))


@dataclass(frozen=True)
class Outcome:
    """The result of one check.

    Attributes:
        check: its name.
        finding: what is wrong, one sentence; empty if nothing is.
        unchecked: why the check does not apply; empty where it does.
    """

    check: str
    finding: str = ""
    unchecked: str = ""


def outcome_of(check: Check, trial: Trial) -> Outcome:
    """Run a check; whatever the plugin raises is a finding.

    It computes as the workers that run cells do, with one thread: with several, sums depend on how
    they are divided among threads, and steps of an optimiser multiply the rounding until an answer
    differs that depends on nothing it should not.
    """
    try:
        with computing_reproducibly():
            check.run(trial)
    except NotCheckedError as why:
        return Outcome(check.name, unchecked=str(why))
    except UsageError as error:
        return Outcome(check.name, finding=str(error))
    except Exception as error:
        return Outcome(check.name, finding=_raised(error, trial))
    return Outcome(check.name)


def _raised(error: Exception, trial: Trial) -> str:
    """Return the sentence of an error that says by itself no way out."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if Path(frame.filename) == trial.file] or frames
    what = f"{type(error).__name__}: {one_line(str(error))}".rstrip(": ")
    where = f"{own[-1].filename}, line {own[-1].lineno}"
    of_attacks = "; what `required_knowledge` does not name is None"
    hint = of_attacks if trial.registry.kind == "attack" else ""
    return f"{trial} raised {what} ({where}{hint}); mend that line, or refuse with a UsageError"
