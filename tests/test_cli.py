"""Facts about the command line: what it prints, and that a mistake is one sentence and code 2."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from leakbench.attacks.feature import FeatureReconstruction
from leakbench.sweep.suite_tables import run_command

Run = Callable[..., tuple[int, str, str]]


def process(
    *arguments: str, folder: Path, path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "LEAKBENCH_DATA_ROOT"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "quik"], r"unknown suite 'quik'; did you mean quick"),
        (["report", "quik"], r"unknown suite 'quik'; did you mean quick"),
        (["run", "none.toml"], r"unknown suite 'none\.toml'"),
        (["run", "quick", "--only", "attack=dlgg"], r"no cell is left by --only attack=dlgg"),
        (["run", "quick", "--only", "attack"], r"--only 'attack' is not of the form FIELD=VALUE"),
        (["run", "quick", "--set", "rounds"], r"--set 'rounds' is not of the form KEY=VALUE"),
        (["run", "quick", "--set", "round=1"], r"no such setting; did you mean rounds"),
        (["run", "quick", "--set", "rounds=-1"], r"rounds: .*\(got -1\)"),
        (["run", "quick", "--set", "attack.stepz=1"], r"parameter 'stepz'; there is .*start_noise"),
        (["run", "quick", "--set", "grant=model"], r"attack 'dlg' needs to know update"),
        (["report", "quick"], r"no record of suite 'quick' .*leakbench run quick"),
        (["show", "featur"], r"nothing is called 'featur'; did you mean feature"),
        (["list", "attacks", "x*"], r"no attacks match 'x\*'; try `leakbench list attacks`"),
    ],
)
def test_a_mistake_is_one_sentence_and_code_2(run: Run, arguments: list[str], message: str) -> None:
    code, out, err = run(*arguments)
    assert code == 2
    assert out == ""
    assert re.fullmatch(rf"leakbench: .*{message}.*\n", err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["run"],
        ["runn"],
        ["list", "attack"],
        ["run", "quick", "--device", "tpu"],
        ["run", "quick", "--workers", "0"],
        ["run", "quick", "--speed"],
    ],
)
def test_a_wrong_argument_is_code_2_without_a_traceback(run: Run, arguments: list[str]) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "Usage: " in err
    assert "Traceback" not in err


def test_a_misspelt_option_is_named_with_the_one_that_is_meant(run: Run) -> None:
    code, out, err = run("run", "quick", "--worker", "2")
    assert (code, out) == (2, "")
    assert "No such option '--worker'. Did you mean '--workers'?" in unwrapped(err)


def test_a_wrong_choice_is_answered_with_the_choices(run: Run) -> None:
    code, out, err = run("run", "quick", "--redo", "some")
    assert (code, out) == (2, "")
    expected = "'--redo': 'some' is not one of 'never', 'failed', 'stale', 'all'."
    assert expected in unwrapped(err)


def unwrapped(text: str) -> str:
    """What stands in a box, on one line."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", text).split())


def test_version_is_that_of_the_package(run: Run) -> None:
    assert run("--version") == (0, f"leakbench {version('leakbench')}\n", "")


@pytest.mark.parametrize("command", ["run", "plan"])
def test_help_says_what_each_choice_of_redo_does(run: Run, command: str) -> None:
    """As `test_plan.test_redo` measures it; another version of an attack is another cell."""
    code, out, _ = run(command, "--help")
    assert code == 0
    told = unwrapped(out).replace("[never|failed|stale|all]", "")
    for words in ("never: none.", "failed: those that failed.", "stale: also those whose data set"):
        assert words in told
    assert "A new version of an attack makes new cells, without a record." in told


def test_a_mistake_writes_nothing(run: Run, tmp_path: Path) -> None:
    run("run", "quick", "--set", "rounds=-1")
    run("report", "quick")
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA is available here")
def test_a_device_that_is_not_there_is_refused_before_any_work(run: Run, tmp_path: Path) -> None:
    code, _, err = run("run", "quick", "--device", "cuda")
    assert code == 2
    assert err == "leakbench: device 'cuda' is not available here; use --device auto\n"
    assert not list(tmp_path.iterdir())


def test_a_suite_file_with_a_mistake_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('title = "Mine"\nspeed = 3\n[attack.prior]\n[[group]]\n')
    code, _, err = run("run", "mine.toml")
    assert code == 2
    assert re.fullmatch(r"leakbench: suite file mine\.toml: .*\n", err)


def test_list_takes_a_glob(run: Run) -> None:
    code, out, _ = run("list", "attacks", "pr*")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()[2:]] == ["prior"]


@pytest.mark.parametrize(
    ("kind", "known"),
    [
        ("attacks", {"feature", "oracle"}),
        ("datasets", {"synthetic", "celeba"}),
        ("models", {"small_cnn"}),
        ("defenses", {"none"}),
        ("suites", {"quick", "table2"}),
    ],
)
def test_list_names_what_there_is(run: Run, kind: str, known: set[str]) -> None:
    code, out, _ = run("list", kind)
    assert code == 0
    assert known <= {line.split()[0] for line in out.splitlines()[2:]}


def test_list_tells_baselines_from_attacks(run: Run) -> None:
    _, out, _ = run("list", "baselines")
    names = {line.split()[0] for line in out.splitlines()[2:]}
    assert {"prior", "blind", "oracle"} <= names
    assert "feature" not in names


def test_show_tells_reference_parameters_defaults_and_knowledge(run: Run) -> None:
    code, out, _ = run("show", "feature")
    assert code == 0
    assert FeatureReconstruction.reference in out
    assert "Needs to know: model, update, labels, auxiliary" in out
    rows = dict(re.findall(r"^(\w+) +\S.*? (\S+)$", out.partition("default\n")[2], re.M))
    default = FeatureReconstruction()
    assert rows["budget"] == str(default.budget)
    assert rows["lam"] == str(default.lam)
    assert rows["labels"] == "'known'"
    assert "known | joint | idlg | analytic | row_minimum | counts | ilrg" in out
    assert "budget: gradient evaluations per victim batch" in out


def test_show_tells_presets(run: Run) -> None:
    _, out, _ = run("show", "ig")
    assert "--set attack.ig.preset=NAME" in out
    assert re.search(r"^paper +budget = 24000, tv = 0.0001$", out, re.M)


def test_show_tells_where_to_get_a_data_set(run: Run) -> None:
    _, out, _ = run("show", "celeba")
    assert "mmlab.ie.cuhk.edu.hk" in out
    assert "DIR/celeba under --data-root DIR" in out


def test_show_prints_a_suite(run: Run) -> None:
    code, out, _ = run("show", "quick")
    assert code == 0
    assert "[attack.feature]" in out


def test_the_command_in_a_report_can_be_pasted_into_a_shell() -> None:
    command = run_command("quick", ["seed=1", "dataset_parameters={ seed = 1 }"])
    assert shlex.split(command) == [
        *("leakbench", "run", "quick", "--set", "seed=1"),
        *("--set", "dataset_parameters={ seed = 1 }"),
    ]


def test_debug_shows_a_traceback(run: Run) -> None:
    code, _, err = run("--debug", "run", "quik")
    assert code == 2
    assert "Traceback (most recent call last)" in err
    assert "unknown suite 'quik'" in err


def test_a_data_set_that_is_not_there_says_what_to_get_and_what_runs_without(
    run: Run, tmp_path: Path
) -> None:
    code, _, err = run("run", "table2", "--workers", "1")
    assert code == 2
    assert "Traceback" not in err
    (error,) = (line for line in err.splitlines() if line.startswith("leakbench: "))
    for part in ("no --data-root given", "mmlab.ie.cuhk.edu.hk", "--set dataset=synthetic"):
        assert part in error
    assert error == err.splitlines()[-1]
    assert not list(tmp_path.rglob("*.json"))


def test_help_comes_without_the_heavy_packages(tmp_path: Path) -> None:
    program = """
import sys
from leakbench.cli.main import main
sys.argv = ["leakbench", "--help"]
try:
    main()
finally:
    print("loaded:", *sorted({"torch", "sklearn", "pandas", "numpy"} & set(sys.modules)))
"""
    done = process("-c", program, folder=tmp_path)
    assert done.returncode == 0
    assert "Usage: " in done.stdout
    assert done.stdout.splitlines()[-1].strip() == "loaded:"
