"""Fixtures that all tests share; each test session has its own cache folder."""

from __future__ import annotations

import gc
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock

import arrow_threads  # noqa: F401 – before pandas is imported.
import forking
import running
from leakbench.attacks.feature import FeatureReconstruction
from leakbench.cli.main import main
from leakbench.conformance.setting import SETUP
from leakbench.experiments.cell import Setup
from leakbench.experiments.suite import Suite, load_suite
from leakbench.sweep import local
from ordering import slow_modules_first
from sampling import with_few_faces
from suite_files import PRESETS, SMALL

collect_ignore = ["outside_package"]  # A package that other tests install.

# One thread per process: tests run on all cores in parallel.
torch.set_num_threads(1)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with slow tests; leave out those marked `nightly`, unless `-m` mentions them."""
    nightly = [item for item in items if item.get_closest_marker("nightly")]
    if nightly and "nightly" not in config.option.markexpr:
        config.hook.pytest_deselected(items=nightly)
        items[:] = [item for item in items if not item.get_closest_marker("nightly")]
    worker = getattr(config, "workerinput", {"workercount": 1})
    items[:] = slow_modules_first(items, worker["workercount"])


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Let copies of this process share its memory, which garbage collection would write to."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cache folder, shared by the session's worker processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"
    os.environ["LEAKBENCH_CACHE"] = str(folder)
    return folder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of this test alone, for those that look into it."""
    folder = tmp_path / "own-cache"
    monkeypatch.setenv("LEAKBENCH_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def data_root(request: pytest.FixtureRequest, cache: Path) -> Path:
    """The folder of real data sets, nightly with all of CelebA; skips where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    root = Path(os.environ.get("LEAKBENCH_DATA_ROOT", beside))
    if not (root / "celeba").is_dir():
        pytest.skip(f"no real data: neither $LEAKBENCH_DATA_ROOT nor {beside} has celeba/")
    if "nightly" in request.config.option.markexpr:
        return root
    return with_few_faces(root.absolute(), cache.parent / "data")


@pytest.fixture
def root(official: Path, tmp_path: Path) -> Path:
    """A copy, which a test may change, of the tiny data set that its module makes as `official`."""
    return Path(shutil.copytree(official, tmp_path / "data"))


@pytest.fixture(scope="session")
def small_setup() -> Setup:
    """A setup that is prepared in seconds: 8 classes, 80 victims."""
    return SETUP


@pytest.fixture(scope="session")
def undisturbed(cache: Path) -> tuple[Path, str]:
    """The folder of a run of a small suite without any fault, and what it printed.

    It runs once, whichever of the session's worker processes needs it first.
    """
    folder = cache.parent / "undisturbed"
    printed = folder / "printed.txt"
    with FileLock(f"{folder}.lock"):
        if not printed.exists():
            folder.mkdir(exist_ok=True)
            result = running.run(folder)
            assert result.returncode == 0, result.stderr
            printed.write_text(result.stdout, encoding="utf-8")
    return folder, printed.read_text(encoding="utf-8")


@pytest.fixture
def forked_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Local workers are copies of this process, which has imported PyTorch already."""
    forking.import_before_copying()
    monkeypatch.setattr(local, "PROCESSES", forking.PROCESSES)
    monkeypatch.setattr(local, "GRACE_SECONDS", forking.GRACE_SECONDS)


@pytest.fixture
def run(
    forked_workers: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> Callable[..., tuple[int, str, str]]:
    """Return a function that runs the command line in this process: code, stdout, stderr."""
    monkeypatch.delenv("LEAKBENCH_DATA_ROOT", raising=False)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.chdir(tmp_path)

    def ran(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["leakbench", *arguments])
        with pytest.raises(SystemExit) as left:
            main()
        captured = capsys.readouterr()
        return int(left.value.code or 0), captured.out, captured.err

    return ran


@pytest.fixture
def run_here(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., tuple[int, str]]:
    """Return a function that runs the small suite of `running` from this process: code, stderr.

    It uses the folder and the cache that `running.run` uses, with one worker.
    """
    monkeypatch.setenv("LEAKBENCH_CACHE", str(tmp_path / "cache"))

    def ran(*arguments: str) -> tuple[int, str]:
        code, _, said = run(*running.command(tmp_path)[3:], "--workers", "1", *arguments)
        return code, said

    return ran


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Return a function that writes a suite file and returns its path."""

    def written(text: str, name: str = "small") -> str:
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return written


@pytest.fixture
def small(write: Any) -> Suite:
    suite: Suite = load_suite(write(SMALL))[1]
    return suite


@pytest.fixture
def presets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FeatureReconstruction, "presets", PRESETS)
