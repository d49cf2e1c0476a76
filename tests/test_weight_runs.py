"""Pretrained weights in runs, plans, records and verification."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from forking import completed
from leakbench.base.errors import UsageError
from leakbench.experiments.cell import Cell, Setup
from leakbench.federation.backbones.weight_registry import PUBLISHED
from leakbench.federation.backbones.weight_sources import MissingWeightsError, named
from leakbench.records.checks import buildable
from leakbench.sweep.suite_tables import run_command
from small_backbone import NAME, body_of, name_of, saved_weights
from suites import small_suite
from weight_fixtures import registered

Run = Callable[..., tuple[int, str, str]]

pytest_plugins = ["weight_fixtures"]

pytestmark = pytest.mark.usefixtures("own_cache")


# Runs


PRIOR = '[attack.prior]\n\n[[group]]\ntitle = "T"\nlayout = "table2"\nsweep = { batch_size = [4] }'


def suite(weights: str, *more: str, **changes: str) -> str:
    fields = {"model": f'"{NAME}"', "model_parameters": f'{{ weights = "{weights}" }}', **changes}
    return small_suite(PRIOR, *more, **fields)


def other_group(weights: str, optional: bool = False) -> str:
    return (
        f'[[group]]\ntitle = "Other"\nlayout = "table2"\nsweep = {{ batch_size = [4] }}\n'
        f"optional = {str(optional).lower()}\n"
        f'cell = {{ model_parameters = {{ weights = "{weights}" }} }}'
    )


@pytest.mark.parametrize("command", ["run", "plan"])
def test_all_weights_that_are_nowhere_are_one_sentence_before_any_work(
    run: Run, write: Any, model: str, tmp_path: Path, command: str
) -> None:
    first, second = (f"sha256:{64 * digit}" for digit in "ab")
    path = write(suite(first, other_group(second)))
    out = tmp_path / "out"
    code, printed, said = run(command, path, "--out", str(out), "--device", "cpu")
    assert (code, printed) == (2, "")
    assert re.fullmatch(
        rf"leakbench: weights are neither .*: model {NAME} has {first}; model {NAME} has {second}; "
        rf"put .*--data-root DIR, or name it once with --set model\.weights=FILE\n",
        said,
    )
    assert not out.exists()


@pytest.mark.parametrize("command", ["run", "plan"])
@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("other.safetensors", "'0.bias' has shape .*another network"),
        ("nan.safetensors", "infinite or no number"),
        ("w.pth", "is a pickle"),
        ("downlaod", "did you mean download"),
        ("download", "publishes no weights"),
    ],
)
def test_weights_that_cannot_be_used_end_a_run_before_any_work(
    run: Run, write: Any, model: str, tmp_path: Path, command: str, weights: str, message: str
) -> None:
    saved_weights(tmp_path / "other.safetensors", width=5)
    tensors = body_of().state_dict()
    save_file(tensors | {"1.bias": torch.full((4,), torch.nan)}, tmp_path / "nan.safetensors")
    torch.save(tensors, tmp_path / "w.pth")
    out = tmp_path / "out"
    changed = ("--set", f"model.weights={weights}")
    code, printed, said = run(command, write(suite("none")), "--out", str(out), *changed)
    assert (code, printed) == (2, "")
    assert re.fullmatch(rf"leakbench: .*{message}.*\n", said)
    assert not out.exists()


def test_a_plan_downloads_nothing(
    run: Run, write: Any, model: str, server: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PUBLISHED, NAME, PUBLISHED["resnet18"])  # type: ignore[arg-type]
    code, printed, _ = run("plan", write(suite("download")), "--device", "cpu")
    assert code == 0
    assert "cannot be done" not in printed
    assert server == []


def test_optional_cells_without_weights_are_left_out_of_a_plan(
    run: Run, write: Any, model: str
) -> None:
    missing = f"sha256:{64 * 'c'}"
    code, printed, said = run("plan", write(suite("none", other_group(missing, optional=True))))
    assert code == 0, said
    assert f"Cannot be done: weights are neither in the cache .* has {missing}".split(" .*")[0] in (
        printed
    )


def test_a_setup_is_prepared_with_weights_found_under_the_data_root(
    model: str, tmp_path: Path, small_setup: Setup
) -> None:
    from leakbench.evaluation.preparation import prepare, train_beside

    there = saved_weights(tmp_path / "backbones" / "mine.safetensors")
    setup = small_setup.model_copy(
        update={"model": NAME, "model_parameters": {"weights": name_of(there)}, "rounds": 0}
    )
    with pytest.raises(MissingWeightsError):
        prepare(setup, None, "cpu", lambda doing: None)
    with pytest.raises(MissingWeightsError):
        train_beside(setup, None, None, "cpu", lambda doing: None)
    context = prepare(setup, tmp_path, "cpu", lambda doing: None)
    model_weights = context.server.model.state_dict()
    assert torch.equal(model_weights["extractor.1.0.weight"], load_file(there)["0.weight"])


def test_other_weights_are_another_training(model: str, tmp_path: Path, small_setup: Setup) -> None:
    keys = set()
    for seed in (1, 2):
        weights = named(str(saved_weights(tmp_path / f"{seed}.safetensors", seed=seed)))
        changed = {"model": NAME, "model_parameters": {"weights": weights}}
        keys.add(small_setup.model_copy(update=changed).training_key("data"))
    assert len(keys) == 2


# Worker processes, records and verification


@pytest.fixture(scope="module")
def measured(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[Path, Path, dict[str, str]]]:
    """A folder of a run whose weights are a named file, its file, and the run's environment."""
    folder = tmp_path_factory.mktemp("measured")
    variables = {**os.environ, "LEAKBENCH_CACHE": str(folder / "cache")}
    file = saved_weights(folder / "secret place" / "mine.safetensors")
    (folder / "small.toml").write_text(suite("none"))
    with pytest.MonkeyPatch.context() as patch:
        registered(patch)
        done = cli(folder, variables, "run", "small.toml", *OPTIONS, f"model.weights={file}")
        assert done.returncode == 0, done.stderr
        assert f"weights = {name_of(file)[:19]}," in done.stdout
        yield folder, file, variables


OPTIONS = ("--device", "cpu", "--workers", "1", "--set")


def cli(folder: Path, variables: dict[str, str], *arguments: str) -> Any:
    out = () if arguments[0] == "verify" else ("--out", "out")
    return completed(["leakbench", *arguments, *out], variables, folder)


@pytest.mark.slow
def test_nothing_that_a_run_writes_has_the_path(
    measured: tuple[Path, Path, dict[str, str]],
) -> None:
    folder, file, _ = measured
    written = [path for path in (folder / "out").rglob("*") if path.is_file()]
    assert {path.suffix for path in written} >= {".json", ".jsonl", ".md"}
    assert not any("secret place" in path.read_text() for path in written)
    assert f"--set model.weights={name_of(file)}" in (folder / "out" / "small.md").read_text()


@pytest.mark.slow
def test_the_name_of_the_content_stands_for_the_file(
    measured: tuple[Path, Path, dict[str, str]],
) -> None:
    folder, file, variables = measured
    again = cli(folder, variables, "run", "small.toml", *OPTIONS, f"model.weights={name_of(file)}")
    assert again.returncode == 0, again.stderr
    assert "1 of 1 cells have their record" in again.stderr


@pytest.mark.slow
def test_a_record_whose_weights_are_missing_cannot_be_measured_here(
    measured: tuple[Path, Path, dict[str, str]], tmp_path: Path
) -> None:
    folder, file, variables = measured
    elsewhere = variables | {"LEAKBENCH_CACHE": str(tmp_path / "empty")}
    missing = cli(folder, elsewhere, "verify", "out", "--device", "cpu")
    assert missing.returncode == 3, missing.stderr
    assert re.search(r"cannot be measured again here: weights are neither in the", missing.stdout)
    assert name_of(file) in missing.stdout
    (tmp_path / "data" / "backbones").mkdir(parents=True)
    (tmp_path / "data" / "backbones" / "w.safetensors").write_bytes(file.read_bytes())
    root = ("--data-root", str(tmp_path / "data"))
    found = cli(folder, elsewhere, "verify", "out", "--device", "cpu", *root)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "1 of them agree" in found.stdout


def test_a_record_that_names_a_path_has_a_fault(model: str, file: Path, small_setup: Setup) -> None:
    fields = small_setup.model_dump() | {"model": NAME, "attack": "prior", "batch_size": 1}
    parameters = {"weights": str(file), "width": 4}
    with pytest.raises(UsageError, match="none of none, download, package and sha256:DIGEST"):
        buildable(Cell.model_validate(fields | {"model_parameters": parameters}))


# What is written


@pytest.mark.parametrize(
    "change",
    [
        "model.weights={}",
        'model.weights="{}"',
        'model={{ name = "small_backbone", weights = "{}" }}',
        "model=[{{ name = \"small_backbone\", weights = '{}' }}]",
    ],
)
def test_the_command_under_a_table_has_no_path(file: Path, change: str) -> None:
    said = run_command("small.toml", [change.format(file), "model.width=4"])
    assert str(file) not in said
    assert name_of(file) in said
    assert change.format(name_of(file)).split("{")[-1][:20] in said
    assert "model.width=4" in said


def test_a_short_name_of_a_file_replaces_nothing_else(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(file.parent)
    file.rename("m")
    said = run_command("s.toml", ["model.weights=m"])
    assert said == f"leakbench run s.toml --set model.weights={name_of(file.parent / 'm')}"
