"""Weights for LPIPS, a hub cache in place of the user's, and images to compare."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

from leakbench.metrics.lpips_weights import SHAPES

HUB = "checkpoints/alexnet-owt-7be5be79.pth"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache in place of the user's; nothing named in the environment."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("LEAKBENCH_LPIPS", raising=False)
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


def random_convolutions() -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(0)
    found = {}
    for layer, shape in SHAPES.items():
        scale = np.prod(shape[1:]) ** -0.5
        found[f"{layer}.weight"] = scale * torch.randn(shape, generator=draw)
        found[f"{layer}.bias"] = scale * torch.randn(shape[0], generator=draw)
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of AlexNet's names and shapes, with random numbers."""
    path = tmp_path_factory.mktemp("weights") / "alexnet.safetensors"
    save_file(random_convolutions(), path)
    return path


def pictures(number: int, size: int = 32) -> Tensor:
    """Smooth random images in [0, 1], shape (number, 3, size, size)."""
    draw = torch.Generator().manual_seed(number)
    coarse = torch.rand(number, 3, 6, 6, generator=draw)
    return functional.interpolate(coarse, size=(size, size), mode="bilinear")
