"""A package outside the checkout adds an attack: `tests/outside_package`, installed by pip."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from forking import completed
from leakbench.conformance.scaffold.new_plugin import CHECKOUT, new_plugin
from suites import small_suite

EXAMPLE = Path(__file__).parent / "outside_package"

SUITE = small_suite(
    "[attack.quotient]",
    "[attack.prior]",
    "[attack.oracle]",
    'grant = ["model", "auxiliary", "features"]',
    "[[group]]",
    'title = "An attack from outside"',
    'layout = "table2"',
    individuals="16",
    batch_size="1",
    property_model='"logistic"',
)

FAULTS = {
    "raising": "1 / 0",
    "leaving": "import sys; sys.exit(3)",
    "prior": "",
    "unregistered": "class Plugin: pass",
}
"""Names of attacks → modules of another package that claims them."""


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


def environment(site: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(CHECKOUT / "bench")])}


def outputs(*commands: str, site: Path, folder: Path) -> dict[str, tuple[int, str]]:
    """Run commands one after another, and return the exit code and the output of each."""
    found = {}
    for command in commands:
        done = completed(["leakbench", *command.split()], environment(site), folder)
        assert done.stderr == ""
        found[command] = (done.returncode, done.stdout)
    return found


def test_the_example_is_what_leakbench_new_writes(tmp_path: Path) -> None:
    written = new_plugin("attack", "quotient", tmp_path / "package")
    for path in written.files:
        example = EXAMPLE / path.relative_to(tmp_path / "package")
        assert example.read_text() == path.read_text(), path.name


@pytest.mark.slow
def test_an_installed_attack_is_listed_shown_and_conforms(site: Path, tmp_path: Path) -> None:
    commands = ("list attacks q*", "show quotient", "check quotient")
    listed, shown, checked = outputs(*commands, site=site, folder=tmp_path).values()
    (row,) = listed[1].splitlines()[2:]
    assert row.split()[:2] == ["quotient", "Quotient"]
    assert "model update auxiliary" in row
    assert "units: from how many quotients to choose" in shown[1]
    assert checked[0] == 0, checked
    assert "attack quotient conforms" in checked[1]
    tests = ("-q", "-p", "no:cacheprovider", str(EXAMPLE / "tests"), "-c", os.devnull)
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", *tests],
        cwd=tmp_path,
        env=environment(site),
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )
    assert tested.returncode == 0, tested.stdout


@pytest.mark.slow
def test_an_installed_attack_is_a_column_of_a_table_and_beats_the_prior(
    site: Path, tmp_path: Path
) -> None:
    (tmp_path / "small.toml").write_text(SUITE)
    arguments = ("run", "small.toml", "--out", "out", "--device", "cpu", "--workers", "1")
    done = completed(["leakbench", *arguments], environment(site), tmp_path)
    assert done.returncode == 0, done.stderr
    heading = next(line for line in done.stdout.splitlines() if line.startswith("| main task"))
    columns = [column.strip() for column in heading.strip("|").split("|")]
    assert columns[-4:] == ["Quotient", "Prior", "Oracle", "remarks"]
    exact = {}
    for path in (tmp_path / "out" / "records").glob("*.json"):
        record = json.loads(path.read_text())
        assert record["status"] == "done"
        if record["cell"]["attack"] == "quotient":
            exact = record["metrics"]["exact"]
    # At B = 1 every feature is found, where the prior finds none.
    assert exact["value"] == 1


@pytest.mark.slow
def test_unusable_plugins_are_named_and_the_rest_is_listed(
    tmp_path: Path,
) -> None:
    site = tmp_path / "site"
    info = site / "stranger-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stranger\nVersion: 1.0\n")
    points = [f"{name} = stranger_{name}:Plugin" for name in FAULTS]
    (info / "entry_points.txt").write_text("\n".join(["[leakbench.attacks]", *points]) + "\n")
    for name, source in FAULTS.items():
        (site / f"stranger_{name}.py").write_text(source)
    commands = ("list attacks", "check raising", "check prior")
    found = outputs(*commands, site=site, folder=tmp_path)
    code, listed = found["list attacks"]
    assert code == 0
    table, _, beneath = listed.partition("\n\n")
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
        code, checked = found[f"check {name}"]
        assert code == 1
        assert f"attack {name} cannot be used." in checked
