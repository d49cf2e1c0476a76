"""Where things lie, and which package imports which: `pyproject.toml` has the layers."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import leakbench
from leakbench.base.registry import ATTACKS

ROOT = Path(__file__).resolve().parent.parent

FLOORS = 12
"""As many layers may lie one above another."""

Imports = Mapping[str, set[str]]
"""Each module or package → what it imports directly."""


@pytest.fixture(scope="module")
def imports() -> Imports:
    grimp = pytest.importorskip("grimp", reason="import-linter is not installed")
    graph = grimp.build_graph("leakbench", cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def test_the_contracts_on_imports_hold(capsys: pytest.CaptureFixture[str]) -> None:
    cli = pytest.importorskip("importlinter.cli", reason="import-linter is not installed")
    status = cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == 0, capsys.readouterr().out


def test_no_module_imports_itself_by_way_of_others(imports: Imports) -> None:
    TopologicalSorter(imports).prepare()  # A circle raises an error that names its modules.


def test_packages_lie_on_few_floors(imports: Imports) -> None:
    packages = between_packages(imports)
    floors: dict[str, int] = {}
    for package in TopologicalSorter(packages).static_order():
        floors[package] = 1 + max((floors[below] for below in packages[package]), default=0)
    assert floors["base"] == 1
    assert max(floors.values()) <= FLOORS, floors


def between_packages(imports: Imports) -> Imports:
    """The imports between the packages, and modules, right below `leakbench`."""
    packages: dict[str, set[str]] = {}
    for module, imported in imports.items():
        if module == "leakbench":  # It names the public interface, and imports it when asked.
            continue
        package = module.split(".")[1]
        found = {each.split(".")[1] for each in imported if each != "leakbench"}
        packages.setdefault(package, set()).update(found - {package})
    return packages


def test_a_file_at_the_top_of_attacks_is_an_attack() -> None:
    attacks = importlib.import_module("leakbench.attacks")
    files = {each.name for each in pkgutil.iter_modules(attacks.__path__) if not each.ispkg}
    homes = {ATTACKS.get(name).__module__ for name in ATTACKS.own()}
    in_attacks = {home for home in homes if home.startswith("leakbench.attacks.")}
    assert in_attacks == {f"leakbench.attacks.{file}" for file in files}


def test_bench_holds_the_package_and_its_documentation_alone() -> None:
    ignored = {"__pycache__"}
    found = {path.name for path in (ROOT / "bench").iterdir()} - ignored
    assert found == {"docs", "leakbench"}
    modules = {path.name for path in (ROOT / "bench" / "leakbench").glob("*.py")}
    assert modules == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("folder", ["attacks", "baselines", "datasets"])
def test_a_folder_of_plugins_at_the_top_is_a_subpackage(folder: str) -> None:
    package = importlib.import_module(f"leakbench.{folder}")
    assert Path(next(iter(package.__path__))).resolve() == ROOT / folder
    assert Path(next(iter(leakbench.__path__))).resolve() == ROOT / "bench" / "leakbench"
