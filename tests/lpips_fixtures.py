"""Fixtures: weights for LPIPS, and a hub cache in place of the user's."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lpips_files import random_convolutions


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache in place of the user's; nothing named in the environment."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("LEAKBENCH_LPIPS", raising=False)
    # Files of tests have torchvision's name, but no content of its digest.
    monkeypatch.setattr("leakbench.metrics.lpips_weights._is_damaged", lambda path: False)
    return tmp_path / "torch" / "hub"


@pytest.fixture
def no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("something is downloaded")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", refuse)


@pytest.fixture(scope="session")
def real_weights() -> Path:
    """The folder of AlexNet's real weights; skips where there is none."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "lpips"
    folder = Path(os.environ.get("LEAKBENCH_DATA_ROOT", beside.parent)) / "lpips"
    if not (folder / "alexnet_features.pth").is_file():
        pytest.skip(f"no real AlexNet weights in {folder}")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of AlexNet's names and shapes, with random numbers."""
    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    save_file(random_convolutions(), path)
    return path
