"""Write a plugin that works, as a start for its author: `leakbench new`."""

from __future__ import annotations

import keyword
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from leakbench.base.errors import UsageError
from leakbench.base.files import replacing
from leakbench.base.registry import ATTACKS, DATASETS, DEFENSES, MODELS, Registry
from leakbench.experiments.suite import suite_names

TEMPLATES = Path(__file__).parent / "templates"

SUITES = "bench/leakbench/experiments/suites"

CHECKOUT = Path(__file__).resolve().parents[4]


@dataclass(frozen=True)
class Kind:
    """A kind of plugin.

    Attributes:
        registry: of its names.
        folder: of such plugins in a checkout.
        suffix: of its class's name.
        group: of its entry points, after `leakbench.`.
        try_it: a command that uses it, besides `leakbench check`.
    """

    registry: Registry
    folder: str
    suffix: str
    group: str
    try_it: str


KINDS: Mapping[str, Kind] = {
    "attack": Kind(ATTACKS, "attacks", "Attack", "attacks", "leakbench run {suite}"),
    "dataset": Kind(DATASETS, "datasets", "DataSet", "datasets", "leakbench datasets check {name}"),
    "defense": Kind(
        DEFENSES,
        "bench/leakbench/federation/defenses",
        "Defense",
        "defenses",
        "leakbench run quick --only attack=feature,prior,blind,labels --set defense={name} "
        "--set defense.step=0.001",
    ),
    "model": Kind(
        MODELS,
        "bench/leakbench/federation/models",
        "Model",
        "models",
        "leakbench run quick --only attack=prior,blind,labels,oracle --set model={name} "
        "--set model_parameters='{{}}' --set split=first_layer",
    ),
}


@dataclass(frozen=True)
class Written:
    """The files that were written.

    Attributes:
        files: the plugin first.
        commands: to run next.
    """

    files: tuple[Path, ...]
    commands: tuple[str, ...]

    def text(self) -> str:
        """Return what is printed."""
        files = [f"Wrote {_short(path)}." for path in self.files]
        return "\n".join([*files, "", "Next:", *(f"  {command}" for command in self.commands)])


def new_plugin(kind: str, name: str, outside: Path | None, checkout: Path = CHECKOUT) -> Written:
    """Write a conforming plugin with a test, and for an attack a suite that measures it.

    Args:
        kind: one of `KINDS`.
        name: under which it is registered.
        outside: folder of a new package with an entry point; None writes into the checkout.
        checkout: the folder that holds `bench`.

    Raises:
        UsageError: the name is invalid or taken, a file exists, or this is no checkout.
    """
    about = KINDS[kind]
    _check_name(about.registry, kind, name)
    if outside is None:
        places, suite = _in_checkout(about, kind, name, checkout), name
    else:
        places = _in_package(kind, name, outside)
        suite = shlex.quote(_short(outside / f"{name}.toml"))
    for path in places:
        if path.exists():
            raise UsageError(f"{path} exists already; choose another name, or remove it")
    values = _placeholders(about, kind, name)
    for path, template in places.items():
        text = (TEMPLATES / f"{template}.txt").read_text(encoding="utf-8") if template else ""
        with replacing(path) as temporary:
            temporary.write_text(Template(text).substitute(values), encoding="utf-8")
    test = next(path for path in places if path.name.startswith("test_"))
    first = (
        f"pytest -n 0 {shlex.quote(_short(test))}"
        if outside is None
        else f"pip install -e {shlex.quote(_short(outside))}"
    )
    check = f"leakbench check {name}"
    steps = (check, first) if outside is None else (first, check)
    return Written(tuple(places), (*steps, about.try_it.format(name=name, suite=suite)))


def _check_name(registry: Registry, kind: str, name: str) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or keyword.iskeyword(name):
        raise UsageError(
            f"{name!r} is no name for a module; take lower-case letters, digits and underscores, "
            f"beginning with a letter, and no Python keyword"
        )
    if name in registry.names():
        raise UsageError(f"{registry.kind} {name!r} exists already; choose another name")
    if kind == "attack" and name in suite_names():
        raise UsageError(f"suite {name!r} exists already; choose another name")


def _in_checkout(about: Kind, kind: str, name: str, checkout: Path) -> dict[Path, str]:
    """Return the files of a plugin in the checkout → their templates."""
    if not (checkout / "pyproject.toml").is_file() or not (checkout / "tests").is_dir():
        raise UsageError(
            f"leakbench is installed in {checkout}, which is no checkout of it; pass --outside DIR "
            f"to write a package of your own"
        )
    places = {
        checkout / about.folder / f"{name}.py": kind,
        checkout / "tests" / f"test_{name}.py": f"{kind}_test",
    }
    if kind == "attack":
        places[checkout / SUITES / f"{name}.toml"] = "attack_suite"
    return places


def _in_package(kind: str, name: str, folder: Path) -> dict[Path, str]:
    """Return the files of a plugin's own package → their templates, "" for an empty file."""
    package = f"leakbench_{name}"
    places = {
        folder / package / f"{name}.py": kind,
        folder / "pyproject.toml": "pyproject",
        folder / package / "__init__.py": "package",
        folder / package / "py.typed": "",
        folder / "tests" / f"test_{name}.py": f"{kind}_test",
    }
    if kind == "attack":
        places[folder / f"{name}.toml"] = "attack_suite"
    return places


def _placeholders(about: Kind, kind: str, name: str) -> dict[str, str]:
    """Return the values of the templates' placeholders."""
    parts = [part for part in name.split("_") if part]
    return {
        "name": name,
        "kind": kind,
        "article": "an" if kind == "attack" else "a",
        "group": about.group,
        "package": f"leakbench_{name}",
        "hyphened": "-".join(parts),
        "title": " ".join(parts).capitalize(),
        "class_name": "".join(part.capitalize() for part in parts) + about.suffix,
    }


def _short(path: Path) -> str:
    """Return a path relative to the working directory, if it lies below."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
