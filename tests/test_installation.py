"""What is installed: one package, `leakbench`, which no other package's files get in the way of.

The wheel and the source distribution are built from the checkout, and the wheel is installed into
fresh virtual environments that borrow their dependencies from this one.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import pytest

pytest.importorskip("hatchling", reason="hatchling is not installed")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent

MAPPED = {
    "bench/leakbench": "leakbench",
    "attacks": "leakbench/attacks",
    "baselines": "leakbench/baselines",
    "datasets": "leakbench/datasets",
}
"""Folders of the checkout → where the wheel has them."""

AUDIT = """
import torch
from torch import nn
from torch.nn import functional

from leakbench import LabelledImages, audit


def people(count):
    bright = torch.rand(count) < 0.5
    images = 0.5 * torch.rand(count, 3, 8, 8) + 0.4 * bright[:, None, None, None]
    return images, torch.randint(4, (count,)), {"bright": bright}


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(288, 64), nn.ReLU(), nn.Linear(64, 4))

    def forward(self, images):
        return self.head(self.features(images))


torch.manual_seed(0)
model, updates = Net(), {}
images, labels, properties = people(16)
for client, rows in enumerate(torch.arange(16).split(2)):
    model.zero_grad()
    functional.cross_entropy(model(images[rows]), labels[rows]).backward()
    updates[f"client {client}"] = {name: p.grad.clone() for name, p in model.named_parameters()}
others, classes, shown = people(100)
report = audit(
    model,
    split="features",
    updates=updates,
    auxiliary=LabelledImages(images=others, labels=classes, properties=shown),
    truth=LabelledImages(
        images=images,
        labels=labels,
        properties=properties,
        updates=[f"client {row // 2}" for row in range(16)],
    ),
    properties=("bright",),
    attacks={"mask_demixing": {"budget": 20}},
    defenses=(),
    property_model="logistic",
)
print(report)
"""


def done(command: list[str], folder: Path) -> str:
    """Run a command without the paths that lead to the checkout, and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ran = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def built(what: str, source: Path, folder: Path) -> Path:
    """Build a "wheel" or an "sdist" from a source tree into a folder, and return its path."""
    code = f"from hatchling.build import build_{what}; print(build_{what}({str(folder)!r}))"
    return folder / done([sys.executable, "-c", code], source).splitlines()[-1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


def contents(wheel: Path) -> dict[str, bytes]:
    with ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_a_wheel_has_no_name_but_leakbench_at_its_top(wheel: Path) -> None:
    tops = {name.partition("/")[0] for name in contents(wheel)}
    version = wheel.name.split("-")[1]
    assert tops == {"leakbench", f"leakbench-{version}.dist-info"}


def test_a_wheel_has_every_module_and_data_file_of_the_checkout(wheel: Path) -> None:
    tracked = done(["git", "ls-files", "--", *MAPPED], ROOT).splitlines()
    expected = {
        path.replace(folder, target, 1)
        for path in tracked
        for folder, target in MAPPED.items()
        if path.startswith(f"{folder}/") and not (ROOT / path).is_symlink()
    }
    assert len(expected) > 200
    assert expected - contents(wheel).keys() == set()


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(built("sdist", ROOT, tmp_path)) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    (tmp_path / "again").mkdir()
    assert contents(built("wheel", source, tmp_path / "again")) == contents(wheel)


@pytest.fixture(scope="module")
def namesake(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of Hugging Face's `datasets`, whose name one of our folders has too."""
    folder = tmp_path_factory.mktemp("namesake")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--retries", "1"]
    command += ["--only-binary=:all:", "--dest", str(folder), "datasets"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found = list(folder.glob("datasets-*.whl"))
    if not found:
        pytest.skip(f"no package index can be reached: {ran.stderr.strip().splitlines()[-1:]}")
    return found[0]


class Installed:
    """A virtual environment with wheels, which finds all other packages where this process does."""

    def __init__(self, folder: Path, *wheels: Path) -> None:
        self.folder = folder
        venv.create(folder, with_pip=False, symlinks=os.name != "nt")
        paths = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})
        self.site, self.scripts = Path(paths["purelib"]), Path(paths["scripts"])
        self.python = str(self.scripts / "python")
        for wheel in wheels:
            pip = [sys.executable, "-m", "pip", "--python", self.python, "install", "--quiet"]
            done([*pip, "--no-deps", "--no-index", str(wheel)], folder)
        # Behind what is installed here. A `.pth` file there is not read: no editable installation.
        (self.site / "borrowed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    def origins(self, folder: Path, *modules: str) -> list[Path]:
        """The files from which modules would be imported."""
        code = (
            "import sys, importlib.util as u\nfor m in sys.argv[1:]: print(u.find_spec(m).origin)"
        )
        return [
            Path(line) for line in done([self.python, "-c", code, *modules], folder).splitlines()
        ]

    def damaged(self) -> Iterator[str]:
        """Yield the installed files that are missing or other than their package's record says."""
        for record in self.site.glob("*.dist-info/RECORD"):
            with record.open(newline="") as lines:
                for name, expected, _ in csv.reader(lines):
                    if expected and _digest(self.site / name) != expected:
                        yield name


def _digest(path: Path) -> str:
    if not path.is_file():
        return "missing"
    digest = base64.urlsafe_b64encode(hashlib.sha256(path.read_bytes()).digest())
    return f"sha256={digest.rstrip(b'=').decode()}"


@pytest.mark.parametrize("first", ["leakbench", "datasets"])
def test_it_and_another_package_called_datasets_leave_each_other_whole(
    first: str, wheel: Path, namesake: Path, tmp_path: Path
) -> None:
    wheels = [wheel, namesake] if first == "leakbench" else [namesake, wheel]
    both = Installed(tmp_path / "venv", *wheels)
    assert list(both.damaged()) == []
    theirs, ours = both.origins(tmp_path, "datasets", "leakbench.datasets.synthetic")
    assert theirs == both.site / "datasets" / "__init__.py"
    assert "HuggingFace" in (both.site / "datasets" / "__init__.py").read_text(encoding="utf-8")
    assert ours == both.site / "leakbench" / "datasets" / "synthetic.py"
    listed = done([str(both.scripts / "leakbench"), "list", "datasets"], tmp_path)
    assert {"celeba", "synthetic"} <= {line.split()[0] for line in listed.splitlines() if line}


def test_what_is_installed_lists_attacks_and_audits_outside_the_checkout(
    wheel: Path, tmp_path: Path
) -> None:
    alone = Installed(tmp_path / "venv", wheel)
    assert alone.origins(tmp_path, "leakbench") == [alone.site / "leakbench" / "__init__.py"]
    listed = done([alone.python, "-m", "leakbench", "list", "attacks"], tmp_path)
    assert {"feature", "mask_demixing", "ul"} <= {line.split()[0] for line in listed.splitlines()}
    (tmp_path / "audit.py").write_text(AUDIT)
    report = done([alone.python, "audit.py"], tmp_path)
    assert "mask_demixing" in report
    assert "16 of 16" in report
