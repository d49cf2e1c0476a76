"""Fixtures: a registered backbone, a file of its weights, and a server of downloads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch

from leakbench.base.registry import MODELS
from leakbench.federation.backbones import weight_downloads
from small_backbone import NAME, SmallBackbone, body_of, saved_weights

pytest_plugins = ["lpips_fixtures"]


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> str:
    """The small backbone, registered during a test."""
    registered(monkeypatch)
    return NAME


def registered(patch: pytest.MonkeyPatch) -> None:
    """Register the small backbone until the patch is undone."""
    MODELS.names()
    patch.setitem(MODELS._plugins, NAME, SmallBackbone)
    patch.setattr(SmallBackbone, "name", NAME, raising=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return saved_weights(tmp_path / "private" / "mine.safetensors")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: Path) -> list[str]:
    """What is asked of torchvision's server, which has one small file under ResNet-18's address."""
    content = tmp_path / "on-server.pth"
    torch.save(body_of().state_dict(), content)
    digits = hashlib.sha256(content.read_bytes()).hexdigest()[:8]
    url = f"https://download.invalid/resnet18-{digits}.pth"
    monkeypatch.setattr(weight_downloads, "_url", lambda weights: url)
    asked: list[str] = []

    def fetch(address: str, path: str, hash_prefix: str, progress: bool) -> None:
        assert hash_prefix == digits
        asked.append(address)
        Path(path).write_bytes(content.read_bytes())

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    return asked
