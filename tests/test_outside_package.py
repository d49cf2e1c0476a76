"""A package outside the checkout adds an attack: `tests/outside_package`, installed by pip."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from leakbench.conformance.scaffold.new_plugin import CHECKOUT, new_plugin

EXAMPLE = Path(__file__).parent / "outside_package"

SUITE = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 300 }
properties = ["gender", "glasses"]
main_task = "2-class"
model_parameters = { width = 4 }
clients = 2
rounds = 3
victim_share = 0.2
individuals = 16
batch_size = 1

[attack.quotient]

[attack.prior]

[attack.oracle]
grant = ["model", "auxiliary", "features"]

[[group]]
title = "An attack from outside"
layout = "table2"
"""

FAULTS = {
    "raising": "1 / 0",
    "leaving": "import sys; sys.exit(3)",
    "prior": "",
    "unregistered": "class Plugin: pass",
}
"""Names of attacks → modules of a stranger's package that claims them."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip has put the example, without any network."""
    folder = tmp_path_factory.mktemp("outside")
    source = shutil.copytree(EXAMPLE, folder / "source")
    command = ["pip", "install", "--quiet", "--disable-pip-version-check", "--no-index"]
    command += ["--no-deps", "--no-build-isolation", "--target", str(folder / "site"), str(source)]
    done = subprocess.run(
        [sys.executable, "-m", *command], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


def leakbench(
    *arguments: str, site: Path, folder: Path, module: str = "leakbench"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(CHECKOUT / "bench")])},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def test_the_example_is_what_leakbench_new_writes(tmp_path: Path) -> None:
    written = new_plugin("attack", "quotient", tmp_path / "package")
    for path in written.files:
        example = EXAMPLE / path.relative_to(tmp_path / "package")
        assert example.read_text() == path.read_text(), path.name


@pytest.mark.slow
def test_an_installed_attack_is_listed_shown_and_conforms(site: Path, tmp_path: Path) -> None:
    listed = leakbench("list", "attacks", "q*", site=site, folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    (row,) = listed.stdout.splitlines()[2:]
    assert row.split()[:2] == ["quotient", "Quotient"]
    assert "model update auxiliary" in row
    shown = leakbench("show", "quotient", site=site, folder=tmp_path)
    assert "units: from how many quotients to choose" in shown.stdout
    checked = leakbench("check", "quotient", site=site, folder=tmp_path)
    assert checked.returncode == 0, checked.stdout
    assert "attack quotient conforms" in checked.stdout
    tests = ("-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests"), "-c", os.devnull)
    tested = leakbench(*tests, site=site, folder=tmp_path, module="pytest")
    assert tested.returncode == 0, tested.stdout


@pytest.mark.slow
def test_an_installed_attack_is_a_column_of_a_table_and_beats_the_prior(
    site: Path, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(SUITE)
    arguments = ("run", "small.toml", "--out", "out", "--device", "cpu", "--workers", "2")
    done = leakbench(*arguments, site=site, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    heading = next(line for line in done.stdout.splitlines() if line.startswith("| main task"))
    columns = [column.strip() for column in heading.strip("|").split("|")]
    assert columns[-3:] == ["Quotient", "Prior", "Oracle"]
    exact = {}
    for path in (tmp_path / "out" / "records").glob("*.json"):
        record = json.loads(path.read_text())
        assert record["status"] == "done"
        if record["cell"]["attack"] == "quotient":
            exact = record["metrics"]["exact"]
    # At B = 1 every feature is found, where the prior finds none.
    assert exact["value"] == 1


@pytest.mark.slow
def test_strangers_that_cannot_be_used_are_named_and_the_rest_is_listed(tmp_path: Path) -> None:
    site = tmp_path / "site"
    info = site / "stranger-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    points = [f"{name} = stranger_{name}:Plugin" for name in FAULTS]
    (info / "entry_points.txt").write_text("\n".join(["[leakbench.attacks]", *points]) + "\n")
    for name, source in FAULTS.items():
        (site / f"stranger_{name}.py").write_text(source)
    listed = leakbench("list", "attacks", site=site, folder=tmp_path)
    assert listed.returncode == 0, listed.stderr
    table, _, beneath = listed.stdout.partition("\n\n")
    rows = {line.split()[0]: line for line in table.splitlines()[2:]}
    assert "Proposed" in rows["feature"]
    assert all("(cannot be used: see below)" in rows[name] for name in FAULTS)
    assert beneath.splitlines()[::2] == [
        "attack 'leaving' of package stranger cannot be imported (SystemExit: 3); fix or "
        "uninstall it",
        "attack 'prior' is registered twice, by package stranger and by "
        "leakbench.baselines.prior.Prior; rename one of them or uninstall its package",
        "attack 'raising' of package stranger cannot be imported (ZeroDivisionError: division by "
        "zero); fix or uninstall it",
        "entry point 'unregistered' of package stranger does not name a class registered as "
        "attack 'unregistered'; put the register decorator on it",
    ]
    for name in ("raising", "prior"):
        checked = leakbench("check", name, site=site, folder=tmp_path)
        assert (checked.returncode, checked.stderr) == (1, "")
        assert f"attack {name} cannot be used." in checked.stdout
