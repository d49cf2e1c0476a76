"""Registries of attacks, data sets, models and defenses, open to outside packages.

A plugin registers itself with a decorator on its class::

    @register_attack("feature")
    @dataclass(frozen=True, kw_only=True)
    class FeatureReconstruction(Attack): ...

Plugins of this project are the modules at the top of `leakbench.attacks`, `leakbench.baselines`,
`leakbench.datasets`, `leakbench.federation.models` and `leakbench.federation.defenses`; they are
imported at the first look-up. An outside package declares its plugins as entry points of the group
`leakbench.attacks` (`leakbench.datasets`, `leakbench.models`, `leakbench.defenses`); they are
imported only when their name is used or listed. A plugin that cannot be imported, or has the name
of another, is refused with one sentence; all others can be used.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import traceback
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

from leakbench.base.errors import UsageError
from leakbench.base.markdown import one_line

Plugin = TypeVar("Plugin", bound=type)


class Registry:
    """Plugins of one kind by name.

    Args:
        kind: the kind of plugin, in the singular, for error messages.
        packages: packages of this project whose modules register their plugins when imported.
        group: the entry-point group of outside plugins.

    Attributes:
        broken: modules of this project that could not be imported → the error of each.
    """

    def __init__(self, kind: str, packages: Iterable[str], group: str) -> None:
        self.kind = kind
        self._packages = tuple(packages)
        self._group = group
        self._plugins: dict[str, type] = {}
        self._loaded_from_outside: set[str] = set()
        # Those that `get` has checked; reports of thousands of cells ask for them again and again.
        self._usable: dict[str, type] = {}
        self._conflicts: dict[str, str] = {}
        self._imported = self._importing = False
        self.broken: dict[str, str] = {}

    def register(self, name: str) -> Callable[[Plugin], Plugin]:
        """Return a decorator that registers a class under `name`.

        Raises:
            UsageError: another class has that name.
        """

        def decorate(plugin: Plugin) -> Plugin:
            present = self._plugins.get(name)
            if present is not None and _path(present) != _path(plugin):
                conflict = (
                    f"{self.kind} {name!r} is registered twice, by {_path(present)} and "
                    f"{_path(plugin)}; rename one of them"
                )
                if self._importing:
                    # Neither may have the name: the order of import is arbitrary.
                    self._conflicts[name] = conflict
                raise UsageError(conflict)
            plugin.name = name  # type: ignore[attr-defined]
            self._usable.pop(name, None)
            self._plugins[name] = plugin
            return plugin

        return decorate

    def names(self, pattern: str = "*") -> list[str]:
        """Return the names that match a glob, sorted; outside plugins are not imported."""
        self._import_own()
        known = set(self._plugins) | set(self._outside())
        return sorted(name for name in known if fnmatchcase(name, pattern))

    def own(self) -> list[str]:
        """Return the names of this project's plugins that can be used, sorted."""
        self._import_own()
        ours = set(self._plugins) - self._loaded_from_outside
        return sorted(name for name in ours if self._fault(name) is None)

    def is_outside(self, name: str) -> bool:
        """Return whether `name` comes from an outside package that has not been imported yet."""
        self._import_own()
        return name not in self._plugins and name in self._outside()

    def get(self, name: str) -> Any:
        """Return the class registered under `name`.

        Raises:
            UsageError: no such plugin (the nearest names are listed), its package fails to import,
                or two have the name.
        """
        self._import_own()
        usable = self._usable.get(name)
        if usable is not None and self._plugins.get(name) is usable:
            return usable
        if fault := self._fault(name):
            raise UsageError(fault)
        if name not in self._plugins and (outside := self._outside().get(name)):
            self._load(outside)
        if name not in self._plugins:
            near = get_close_matches(name, self.names(), n=3, cutoff=0.4) or self.names()
            raise UsageError(
                f"unknown {self.kind} {name!r}; did you mean {', '.join(near)}?"
                + "".join(f" ({broken})" for broken in dict.fromkeys(self.broken.values()))
            )
        self._usable[name] = self._plugins[name]
        return self._plugins[name]

    @cached_property
    def _points(self) -> tuple[EntryPoint, ...]:
        """The entry points of outside packages; finding them reads every installed package."""
        return tuple(entry_points(group=self._group))

    def _outside(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in self._points}

    def _load(self, point: EntryPoint) -> None:
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:
            raise UsageError(
                f"{self.kind} {point.name!r} of package {_package(point)} cannot be imported "
                f"({_summary(error)}); fix or uninstall it"
            ) from error
        if not isinstance(plugin, type) or self._plugins.get(point.name) is not plugin:
            raise UsageError(
                f"entry point {point.name!r} of package {_package(point)} does not name a class "
                f"registered as {self.kind} {point.name!r}; put the register decorator on it"
            )
        self._loaded_from_outside.add(point.name)

    def _fault(self, name: str) -> str | None:
        """Return why a name cannot be used: two plugins have it, or its module is broken."""
        if name in self._conflicts:
            return self._conflicts[name]
        plugin = self._plugins.get(name)
        if plugin is not None and plugin.__module__ in self.broken:
            return self.broken[plugin.__module__]
        providers = {
            point.value: f"package {_package(point)}"
            for point in self._points
            if point.name == name
        }
        if not providers:
            return None
        if plugin is not None and name not in self._loaded_from_outside:
            providers.setdefault(f"{plugin.__module__}:{plugin.__qualname__}", _path(plugin))
        if len(providers) < 2:
            return None
        return (
            f"{self.kind} {name!r} is registered twice, by {' and by '.join(providers.values())}; "
            f"rename one of them or uninstall its package"
        )

    def _import_own(self) -> None:
        if self._imported:
            return
        self._imported = self._importing = True
        for package_name in self._packages:
            package = importlib.import_module(package_name)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.ispkg:
                    self._import(f"{package_name}.{module.name}")
        self._importing = False

    def _import(self, module: str) -> None:
        """Import a module of this project; if that fails, the others can still be used."""
        try:
            importlib.import_module(module)
        except UsageError as error:
            self.broken[module] = str(error)
        except (Exception, SystemExit) as error:
            self.broken[module] = (
                f"{module} cannot be imported ({_summary(error)}; {_location(error)}); "
                f"fix that, or remove {_file(module)}"
            )


def _summary(error: BaseException) -> str:
    return f"{type(error).__name__}: {one_line(str(error))}"


def _location(error: BaseException) -> str:
    """Return file and line of an error; of a syntax error, the line that is not valid."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}, line {error.lineno}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename}, line {frame.lineno}"


def _file(module: str) -> str:
    spec = importlib.util.find_spec(module)
    return str(Path(spec.origin).resolve()) if spec and spec.origin else module


def _path(plugin: type) -> str:
    return f"{plugin.__module__}.{plugin.__qualname__}"


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.value


ATTACKS = Registry("attack", ("leakbench.attacks", "leakbench.baselines"), "leakbench.attacks")
DATASETS = Registry("data set", ("leakbench.datasets",), "leakbench.datasets")
MODELS = Registry("model", ("leakbench.federation.models",), "leakbench.models")
DEFENSES = Registry("defense", ("leakbench.federation.defenses",), "leakbench.defenses")

register_attack = ATTACKS.register
register_dataset = DATASETS.register
register_model = MODELS.register
register_defense = DEFENSES.register
