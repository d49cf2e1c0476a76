"""What `leakbench list`, `leakbench datasets list` and `leakbench show` print."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from leakbench.base.documents import Document, TextTable
from leakbench.base.errors import UsageError
from leakbench.base.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Registry
from leakbench.experiments.suite import FOLDER, load_suite, suite_names
from leakbench.federation.backbones.backbone import Backbone
from leakbench.federation.backbones.description import description as backbone_description
from leakbench.federation.backbones.weight_registry import sources_text
from leakbench.federation.backbones.weight_sources import takes_weights
from leakbench.threat.attack import Attack

SECTION = "Attributes:"

REGISTRIES: dict[str, Registry] = {
    "attacks": ATTACKS,
    "baselines": ATTACKS,
    "datasets": DATASETS,
    "defenses": DEFENSES,
    "models": MODELS,
}


def listing(kind: str, pattern: str, data_root: Path | None = None) -> Document:
    """Return a table of the plugins or suites of a kind whose names match a glob.

    Args:
        kind: `suites`, or one of `REGISTRIES`.
        pattern: the glob.
        data_root: where data sets are looked for.

    Returns:
        The table, and beneath it a sentence for each plugin that cannot be used.

    Raises:
        UsageError: none matches.
    """
    faults: list[str] = []
    order: list[str] = []
    if kind == "suites":
        rows = [[name, load_suite(name)[1].title] for name in suite_names(pattern)]
        columns = ["suite", "title"]
    else:
        registry = REGISTRIES[kind]
        names = [
            name for name in registry.names(pattern) if kind != "baselines" or _is_baseline(name)
        ]
        rows = [[name, *_row_or_fault(registry, name, data_root, faults)] for name in names]
        columns = [registry.kind, *_COLUMNS[registry.kind]]
        order = _ORDER.get(registry.kind, order)
        faults = list(dict.fromkeys([*faults, *registry.broken.values()]))
    if not rows:
        raise UsageError(f"no {kind} match {pattern!r}; try `leakbench list {kind}`")
    return [TextTable(columns, rows, order, PROSE), *faults]


def overview() -> Document:
    """Return a table of the names of all plugins and suites, by kind."""
    of_kind = {kind: registry.names("*") for kind, registry in REGISTRIES.items()}
    of_kind["baselines"] = [name for name in of_kind["baselines"] if _is_baseline(name)]
    of_kind["attacks"] = [name for name in of_kind["attacks"] if name not in of_kind["baselines"]]
    rows = [
        [kind, " ".join(names)] for kind, names in (*of_kind.items(), ("suites", suite_names()))
    ]
    more = "`leakbench list KIND` describes those of a kind, `leakbench show NAME` one of them."
    return [TextTable(["kind", "names"], rows, prose=("names",)), more]


def description(name: str) -> Document:
    """Return what there is to know of the plugins and suites called `name`.

    Raises:
        UsageError: there is none.
    """
    registries = (ATTACKS, DATASETS, MODELS, DEFENSES)
    found = [part for r in registries if name in r.names() for part in _describe(r, name)]
    if name in suite_names():
        found += [f"suite {name}", (FOLDER / f"{name}.toml").read_text(encoding="utf-8")]
    if not found:
        from difflib import get_close_matches

        known = sorted({n for r in registries for n in r.names()} | set(suite_names()))
        near = get_close_matches(name, known, n=3, cutoff=0.4) or known
        faults = dict.fromkeys(each for r in registries for each in r.broken.values())
        broken = "".join(f" ({each})" for each in faults)
        raise UsageError(f"nothing is called {name!r}; did you mean {', '.join(near)}?{broken}")
    return found


def _is_baseline(name: str) -> bool:
    if ATTACKS.is_outside(name):
        return False
    plugin: type[Attack] = ATTACKS.get(name)
    return plugin.__module__.startswith("leakbench.baselines.")


_COLUMNS = {
    "attack": ["column", "control", "knows", "reference"],
    "data set": ["properties", "whole", "folder", "found", "terms"],
    "model": ["splits", "reference"],
    "defense": ["changes", "parameters", "reference"],
}

_ORDER = {
    "attack": ["column", "knows", "control", "reference"],
    "data set": ["found", "folder", "whole", "terms", "properties"],
}
"""The order in which a narrow terminal shows columns, where it is another one."""

PROSE = ("title", "reference", "terms", "whole", "properties", "splits", "parameters")
"""Columns whose texts may be broken between words."""


def _row_or_fault(
    registry: Registry, name: str, data_root: Path | None, faults: list[str]
) -> list[str]:
    """Return a plugin's row; of one that cannot be used, a stranger's say, append what is wrong."""
    try:
        return _row(registry, name, data_root)
    except Exception as error:
        faults.append(
            str(error)
            if isinstance(error, UsageError)
            else f"{registry.kind} {name!r} cannot be described ({type(error).__name__}: {error}); "
            f"run `leakbench check {name}`"
        )
        return ["(cannot be used: see below)"]


def _row(registry: Registry, name: str, data_root: Path | None) -> list[str]:
    plugin = registry.get(name)
    cells: dict[str, Callable[[], list[str]]] = {
        "attack": lambda: [
            plugin.title,
            plugin.control or "",
            " ".join(plugin().required_knowledge.names()),
            plugin.reference,
        ],
        "data set": lambda: [
            " ".join(plugin.properties),
            plugin.size,
            plugin.folder or "(embedded)",
            _found(plugin.folder, data_root),
            plugin.terms,
        ],
        "model": lambda: [" ".join(plugin.splits), plugin.reference],
        "defense": lambda: [
            plugin.stage.name.lower(),
            " ".join(field.name for field in dataclasses.fields(plugin)),
            plugin.reference,
        ],
    }
    return cells[registry.kind]()


def _found(folder: str | None, data_root: Path | None) -> str:
    """Return whether a data set's folder is there; its files are not looked at."""
    if folder is None:
        return "yes"
    if data_root is None:
        return "no --data-root"
    return "yes" if (data_root / folder).is_dir() else "no"


def _describe(registry: Registry, name: str) -> Document:
    plugin = registry.get(name)
    parts: list[str | TextTable] = [
        f"{registry.kind} {name}",
        inspect.getdoc(plugin) or "",
        *_shared(plugin),
    ]
    reference = getattr(plugin, "reference", "")
    if reference:
        parts.append(f"Reference: {reference}")
    if registry is ATTACKS and plugin.note:
        parts.append(f"Note: {plugin.note}.")
    if registry is ATTACKS:
        parts.append(
            f"Needs to know: {', '.join(plugin().required_knowledge.names()) or 'nothing'}"
        )
    if registry is DATASETS and plugin.source:
        parts.append(f"Get {plugin.source}; put it into DIR/{plugin.folder} under --data-root DIR.")
        parts.append(f"Whole: {plugin.size}. Terms: {plugin.terms}.")
    if registry is MODELS and takes_weights(plugin):
        parts.append("\n".join(["Weights:", *(f"- {line}" for line in sources_text(name))]))
    parts.append(_parameters(plugin))
    if registry is MODELS and issubclass(plugin, Backbone):
        parts.append(backbone_description(plugin()))
    if registry is ATTACKS and plugin.presets:
        parts += _presets(plugin)
    return parts


def _shared(plugin: type) -> list[str]:
    return [f"Shared:{text}" for text in shared_parameters(plugin)]


def shared_parameters(plugin: type) -> list[str]:
    """Return what the most general class that a plugin builds on says of its parameters, if any."""
    bases = [base for base in plugin.__mro__[1:] if dataclasses.is_dataclass(base)]
    documented = [inspect.getdoc(base) or "" for base in bases]
    return [text.partition(SECTION)[2] for text in documented if SECTION in text][-1:]


def parameters(plugin: type) -> list[list[str]]:
    """Return the name, type and default of each of a plugin's parameters."""
    try:
        hints = get_type_hints(plugin, include_extras=True)
    except NameError:  # an outside plugin may name types that only type checkers import
        hints = {}
    return [[f.name, _type(f, hints.get(f.name)), _default(f)] for f in dataclasses.fields(plugin)]


PARAMETER_HEADINGS = ["parameter", "type", "default"]


def _parameters(plugin: type) -> str | TextTable:
    rows = parameters(plugin)
    if not rows:
        return "Parameters: none"
    return TextTable(PARAMETER_HEADINGS, rows, ["default", "type"])


def _presets(attack: type[Attack]) -> Document:
    rows = [
        [name, ", ".join(f"{parameter} = {value!r}" for parameter, value in preset.items())]
        for name, preset in attack.presets.items()
    ]
    table = TextTable(["preset", "parameters"], rows, prose=PROSE)
    return [f"Presets, taken by --set attack.{attack.name}.preset=NAME:", table]


def _type(field: dataclasses.Field[Any], hint: Any) -> str:
    """Return a field's choices, or its type, `Annotated[int, Field(gt=0)]` as `int, gt=0`."""
    if get_origin(hint) is Literal:
        return " | ".join(map(str, get_args(hint)))
    return re.sub(r"Annotated\[(.+), Field\((.*)\)\]", r"\1, \2", str(field.type))


def _default(field: dataclasses.Field[Any]) -> str:
    if field.default is not dataclasses.MISSING:
        return repr(field.default)
    if field.default_factory is not dataclasses.MISSING:
        return repr(field.default_factory())
    return "(required)"
