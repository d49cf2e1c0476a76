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


def copy_of_checkout(folder: Path) -> Path:
    """Copy this checkout, without its tests and results."""
    copy = folder / "checkout"
    copy.mkdir()
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CHECKOUT / name, copy / name, symlinks=True, ignore=ignored)
    shutil.copy(CHECKOUT / "pyproject.toml", copy)
    (copy / "tests").mkdir()
    for module in (
        "arrow_threads",
        "conftest",
        "forking",
        "ordering",
        "running",
        "sampling",
        "suite_files",
    ):
        shutil.copy(CHECKOUT / "tests" / f"{module}.py", copy / "tests")
    return copy


def process(*arguments: str, folder: Path, paths: list[Path]) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
        "MYPYPATH": os.pathsep.join(map(str, paths)),
    }
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def assert_clean(folder: Path, *files: Path) -> None:
    for tool in (("check",), ("format", "--check")):
        found = process("-m", "ruff", *tool, *map(str, files), folder=folder, paths=[])
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
        ("class", "'class' is no name for a module.*no Python keyword"),
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
    with pytest.raises(UsageError, match=r"pyproject\.toml exists already"):
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


CHECK_AND_TEST = """
import sys

import pytest

from leakbench.conformance.suite import check_plugin

names = sys.argv[1 : sys.argv.index("--")]
for name in names:
    print(check_plugin(name, None, {}, None).text())
sys.exit(pytest.main(["-q", "-n", "0", *sys.argv[len(names) + 2 :]]))
"""


@pytest.mark.slow
def test_what_is_written_into_a_checkout_conforms_and_its_tests_pass(tmp_path: Path) -> None:
    """One process checks and tests all kinds: most of its time goes to imports."""
    checkout = copy_of_checkout(tmp_path)
    names = {kind: f"new_{kind}" for kind in KINDS}
    written = [new_plugin(kind, name, None, checkout) for kind, name in names.items()]
    files = [path for each in written for path in each.files if path.suffix == ".py"]
    assert_clean(checkout, *files)
    package = [checkout / "bench"]
    tests = [str(path) for path in files if path.parent.name == "tests"]
    assert len(tests) == len(KINDS)
    (tmp_path / "check_and_test.py").write_text(CHECK_AND_TEST)
    script = str(tmp_path / "check_and_test.py")
    done = process(script, *names.values(), "--", *tests, folder=checkout, paths=package)
    for kind, name in names.items():
        assert re.search(rf"^{KINDS[kind].registry.kind} {name} conforms", done.stdout, re.M)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.nightly
@pytest.mark.slow
def test_every_written_plugin_is_typed(tmp_path: Path) -> None:
    """One run checks all kinds: mypy reads the whole of leakbench first."""
    for kind in KINDS:
        new_plugin(kind, f"new_{kind}", tmp_path / kind)
    packages = [arg for kind in KINDS for arg in ("-p", f"leakbench_new_{kind}")]
    found = process(
        "-m",
        "mypy",
        "--strict",
        "--config-file=",
        *packages,
        folder=tmp_path,
        paths=[CHECKOUT / "bench", *(tmp_path / kind for kind in KINDS)],
    )
    assert found.returncode == 0, found.stdout
