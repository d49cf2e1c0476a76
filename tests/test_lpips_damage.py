"""Damaged weights for LPIPS are refused: each flipped bit would change numbers without a word."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from leakbench.base.errors import UsageError
from leakbench.metrics import lpips_weights
from leakbench.metrics.lpips_weights import find_lpips_weights
from lpips_files import random_convolutions


@pytest.mark.parametrize("place", range(3, 100, 8))
def test_a_flipped_bit_is_refused(tmp_path: Path, place: int) -> None:
    path = tmp_path / "alexnet.pth"
    torch.save(random_convolutions(), path)
    assert find_lpips_weights(str(path)) == path
    content = bytearray(path.read_bytes())
    content[len(content) * place // 100] ^= 1 << place % 8
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"alexnet\.pth are damaged.*--lpips-weights"):
        find_lpips_weights(str(path))


@pytest.mark.parametrize("legacy", [True, False])
def test_torchvision_s_file_has_the_digest_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, legacy: bool
) -> None:
    path = tmp_path / "alexnet-owt-7be5be79.pth"
    torch.save(random_convolutions(), path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UsageError, match="are damaged"):
        find_lpips_weights(str(path))
    digits = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    named = path.rename(tmp_path / f"alexnet-owt-{digits}.pth")
    monkeypatch.setattr(lpips_weights, "_url", lambda: f"https://example.org/{named.name}")
    assert find_lpips_weights(str(named)) == named


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_weights_that_are_no_numbers_are_refused(tmp_path: Path, value: float, ending: str) -> None:
    tensors = random_convolutions()
    tensors["features.8.weight"][7, 3, 1, 1] = value
    path = tmp_path / f"alexnet.{ending}"
    if ending == "pth":
        torch.save(tensors, path)
    else:
        save_file(tensors, path)
    with pytest.raises(UsageError, match=r"values of features\.8\.weight that are no finite"):
        find_lpips_weights(str(path))
