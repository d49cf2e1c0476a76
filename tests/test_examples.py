"""The examples run, and the updates that they capture are what the audit assumes."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from leakbench import Report

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "tests" / "examples"


def reported(example: str, folder: Path) -> Report:
    """Run an example as a user does; return what it wrote."""
    ran = python([str(EXAMPLES / f"{example}.py"), str(folder)], EXAMPLES)
    assert ran.returncode == 0, ran.stderr
    page = (folder / "audit.html").read_text(encoding="utf-8")
    report = Report.model_validate_json((folder / "audit.json").read_text(encoding="utf-8"))
    assert all(said in ran.stdout for said in (*report.findings, *report.limitations))
    assert report.model.name in page
    return report


def python(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(ROOT / "bench"), str(EXAMPLES)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.nightly
@pytest.mark.slow
def test_gradients_of_plain_pytorch(tmp_path: Path) -> None:
    report = reported("plain_pytorch", tmp_path / "audit")
    assert len(report.updates) == 8
    assert all(update.mismatch is not None and update.mismatch < 1e-5 for update in report.updates)
    demixing = report.attacks[-1]
    assert demixing.certified == 32
    assert demixing.metrics is not None and demixing.metrics.certificates is not None
    assert demixing.metrics.certificates.false == 0
    assert [defense.name for defense in report.defenses] == ["none", "gaussian"]


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.skipif(find_spec("flwr") is None, reason="needs the extra flwr")
def test_weights_that_a_flower_strategy_captures(tmp_path: Path) -> None:
    report = reported("flower", tmp_path / "audit")
    assert all(update.mismatch is not None and update.mismatch < 1e-3 for update in report.updates)
    attack = report.attacks[-1]
    assert (attack.certified, attack.false_certificates) == (24, 0)
    none, noise = report.defenses
    assert [each.attacks[-1].certified for each in (none, noise)] == [24, 0]
    assert (tmp_path / "audit" / "captured" / "round-1" / "weights.safetensors").exists()
    assert not (tmp_path / "audit" / "captured" / "round-2").exists()


@pytest.mark.nightly
@pytest.mark.slow
@pytest.mark.skipif(find_spec("opacus") is None, reason="needs the extra opacus")
def test_updates_of_opacus(tmp_path: Path) -> None:
    report = reported("opacus_dp_sgd", tmp_path / "audit")
    assert len(report.updates) == 6
    assert report.updates[0].defense == {"name": "dp_sgd", "clip": 1.0, "noise": 1.0}
    assert "defense" in report.attacks[-1].knows


@pytest.mark.slow
@pytest.mark.skipif(find_spec("opacus") is None, reason="needs the extra opacus")
def test_opacus_without_noise_sends_what_the_defense_dp_sgd_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attack that knows the defense then simulates the clients as they are."""
    monkeypatch.syspath_prepend(EXAMPLES)
    from opacus_dp_sgd import BATCH, CLIP, main
    from safetensors.torch import load_file
    from synthetic_faces import Net, synthetic_people

    from leakbench.auditing.model_splitting import split_model
    from leakbench.federation.defenses.dp_sgd import clipped_sum

    main(tmp_path, noise=0.0)
    torch.manual_seed(0)
    people = synthetic_people(24, first=1000)
    shared = split_model(Net(), "features", people.images[:3])
    sent = load_file(tmp_path / "updates" / "client-0.safetensors")
    assert people.labels is not None
    expected = clipped_sum(shared, people.images[:BATCH], people.labels[:BATCH], CLIP)
    for ours, theirs in shared.names.items():
        torch.testing.assert_close(
            sent[f"_module.{theirs}"], expected[ours] / BATCH, rtol=1e-3, atol=1e-6
        )


def readmes_example() -> str:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("## Audit your own model") :]
    code = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert code is not None
    return code.group(1)


def test_the_readmes_example_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With smaller budgets: what is defended is searched until they end."""
    code = readmes_example()
    small = code.replace(
        '["mask_demixing"]', '{"mask_demixing": {"budget": 20, "reflections": 300}}'
    )
    assert small != code
    small = small.replace("    truth=", '    property_model="logistic",\n    truth=')
    (tmp_path / "readme.py").write_text(small, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with torch.random.fork_rng():
        runpy.run_path("readme.py", run_name="__main__")
    assert_audited(capsys.readouterr().out, tmp_path)


@pytest.mark.nightly
@pytest.mark.slow
def test_the_readmes_example_runs_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "readme.py").write_text(readmes_example(), encoding="utf-8")
    ran = python(["readme.py"], tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert_audited(ran.stdout, tmp_path)


def assert_audited(printed: str, folder: Path) -> None:
    assert "certifies the exact deep feature of 32 of 32 individuals" in printed
    assert "Limitations:\n- " in printed
    assert (folder / "audit" / "audit.html").is_file()
