"""`leakbench new` writes plugins that conform, and overwrites nothing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from leakbench.base.errors import UsageError
from leakbench.conformance.scaffold.new_plugin import CHECKOUT, KINDS, new_plugin

Run = Callable[..., tuple[int, str, str]]

FOLDERS = ("attacks", "baselines", "bench", "datasets")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of this checkout, without its tests and results."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / folder, copy / folder, symlinks=True, ignore=ignored)
    shutil.copy(CHECKOUT / "pyproject.toml", copy)
    (copy / "tests").mkdir()
    for module in ("conftest.py", "running.py"):
        shutil.copy(CHECKOUT / "tests" / module, copy / "tests")
    return copy


def process(*arguments: str, folder: Path, paths: list[Path]) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "MYPYPATH": os.pathsep.join(map(str, paths)),
    }
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def assert_clean(folder: Path, *files: Path) -> None:
    for tool in (("check",), ("format", "--check")):
        found = process("ruff", *tool, *map(str, files), folder=folder, paths=[])
        assert found.returncode == 0, found.stdout


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("feature", "attack 'feature' exists already; choose another name"),
        ("oracle", "attack 'oracle' exists already"),
        ("table2", "suite 'table2' exists already"),
        ("2fast", "'2fast' is no name for a module; take lower-case letters"),
        ("my-attack", "'my-attack' is no name for a module"),
        ("Mine", "'Mine' is no name for a module"),
        ("class", "'class' is no name for a module.*no word of Python's own"),
        ("", "'' is no name for a module"),
        ("../mine", "is no name for a module"),
        ("quick", "suite .quick. exists already"),
    ],
)
def test_a_name_that_cannot_be_is_one_sentence_and_code_2(run: Run, name: str, said: str) -> None:
    code, out, err = run("new", "attack", name)
    assert (code, out) == (2, "")
    assert re.fullmatch(rf"leakbench: .*{said}.*\n", err)


def test_nothing_is_overwritten_and_nothing_written_beside_it(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text("mine")
    with pytest.raises(UsageError, match=r"pyproject\.toml is there already"):
        new_plugin("attack", "mine", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pyproject.toml"]
    assert (tmp_path / "pyproject.toml").read_text() == "mine"


def test_what_is_installed_elsewhere_is_no_checkout(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"which is no checkout of it; pass --outside DIR"):
        new_plugin("attack", "mine", None, tmp_path)


def test_the_three_next_commands_are_printed(run: Run, tmp_path: Path) -> None:
    code, out, _ = run("new", "attack", "mine", "--outside", "my package")
    assert code == 0
    assert "Wrote my package/leakbench_mine/mine.py." in out
    assert out.partition("Next:\n")[2].splitlines() == [
        "  pip install -e 'my package'",
        "  leakbench check mine",
        "  leakbench run 'my package/mine.toml'",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_a_written_package_is_clean(kind: str, tmp_path: Path) -> None:
    written = new_plugin(kind, "brand_new_plugin", tmp_path / "package")
    assert all(path.is_file() for path in written.files)
    assert_clean(tmp_path / "package", tmp_path / "package")


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_into_a_checkout_conforms_and_its_test_passes(
    kind: str, checkout: Path
) -> None:
    name = f"new_{kind}"
    written = new_plugin(kind, name, None, checkout)
    assert_clean(checkout, *(path for path in written.files if path.suffix == ".py"))
    checked = process("leakbench", "check", name, folder=checkout, paths=[checkout / "bench"])
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"{name} conforms" in checked.stdout
    test = next(path for path in written.files if path.parent.name == "tests")
    tested = process(
        "pytest", "-q", "-n", "0", str(test), folder=checkout, paths=[checkout / "bench"]
    )
    assert tested.returncode == 0, tested.stdout


@pytest.mark.slow
def test_every_written_plugin_is_typed(tmp_path: Path) -> None:
    """One run for all: mypy reads the whole of leakbench first."""
    for kind in KINDS:
        new_plugin(kind, f"new_{kind}", tmp_path / kind)
    packages = [arg for kind in KINDS for arg in ("-p", f"leakbench_new_{kind}")]
    found = process(
        "mypy",
        "--strict",
        "--config-file=",
        *packages,
        folder=tmp_path,
        paths=[CHECKOUT / "bench", *(tmp_path / kind for kind in KINDS)],
    )
    assert found.returncode == 0, found.stdout
