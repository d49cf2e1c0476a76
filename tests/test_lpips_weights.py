"""Where AlexNet's weights for LPIPS are found, and what is refused."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import leakbench.cli.main
import leakbench.metrics.image_metrics
from leakbench.base.errors import UsageError
from leakbench.metrics.lpips_weights import find_lpips_weights, read_convolutions
from lpips_files import HUB, random_convolutions

SUITE = """
title = "Small"

[cell]
image_size = 32
dataset = "synthetic"
dataset_parameters = { individuals = 300 }
properties = ["gender"]
main_task = "2-class"
model_parameters = { width = 4 }
rounds = 0
victim_share = 0.2
individuals = 8
batch_size = 4

[attack.prior]

[attack.imitation]

[[group]]
title = "Table 2"
layout = "table2"
"""

pytest_plugins = ["lpips_fixtures"]

pytestmark = pytest.mark.usefixtures("hub")


def test_without_weights_there_is_none_and_no_download(no_download: None) -> None:
    assert find_lpips_weights(None) is None


@pytest.mark.parametrize("zipped", [True, False])
def test_weights_in_the_hub_s_cache_are_found(hub: Path, no_download: None, zipped: bool) -> None:
    path = hub / HUB
    path.parent.mkdir(parents=True)
    whole = random_convolutions() | {"classifier.1.weight": torch.zeros(2, 2)}
    torch.save(whole, path, _use_new_zipfile_serialization=zipped)
    assert find_lpips_weights(None) == find_lpips_weights("download") == path
    assert read_convolutions(path).keys() == random_convolutions().keys()


def test_a_download_goes_where_lpips_s_own_goes(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fetch(url: str, path: str, hash_prefix: str) -> None:
        asked.update(url=url, digits=hash_prefix)
        torch.save(random_convolutions(), path)

    monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
    assert find_lpips_weights("download") == hub / HUB
    assert asked == {
        "url": "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
        "digits": "7be5be79",
    }


def test_a_download_that_fails_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(UsageError, match=r"could not be downloaded .*no network.*PATH"):
        find_lpips_weights("download")


@pytest.mark.parametrize("name", ["mine.pth", "mine.safetensors"])
def test_a_named_file_or_its_folder_is_taken(tmp_path: Path, name: str) -> None:
    path = tmp_path / "named" / name
    path.parent.mkdir()
    convolutions = random_convolutions()
    if path.suffix == ".pth":
        torch.save(convolutions, path)
        torch.save({"lin0.model.1.weight": torch.zeros(1, 64, 1, 1)}, path.with_name("lin.pth"))
    else:
        save_file(convolutions, path)
        path.with_name("broken.pth").write_text("")
    assert find_lpips_weights(str(path)) == path
    assert find_lpips_weights(str(path.parent)) == path
    for key, tensor in read_convolutions(path).items():
        assert torch.equal(tensor, convolutions[key])


def test_a_file_is_taken_before_the_hub_s(hub: Path, weights: Path) -> None:
    (hub / HUB).parent.mkdir(parents=True)
    torch.save(random_convolutions(), hub / HUB)
    assert find_lpips_weights(str(weights)) == weights


def wrong_files(folder: Path) -> dict[str, str]:
    """Names of things that are no weights, each with the message's part that says so."""
    good = random_convolutions()
    other = {f"net.{name}": tensor for name, tensor in good.items()}
    torch.save(other, folder / "keys.pth")
    save_file(other, folder / "keys.safetensors")
    torch.save(good | {"features.3.bias": torch.zeros(3)}, folder / "shape.pth")
    torch.save(torch.zeros(3), folder / "tensor.pth")
    torch.save({"model": Path("pickled")}, folder / "pickle.pth")
    (folder / "empty.pth").write_text("")
    (folder / "text.safetensors").write_text("no tensors")
    for name, count in (("nothing", 0), ("two", 2)):
        (folder / name).mkdir()
        for i in range(count):
            torch.save(good, folder / name / f"{i}.pth")
    first = r"hold no tensor features\.0\.weight of shape \(64, 3, 11, 11\)"
    return {
        "absent.pth": "not found",
        "keys.pth": first,
        "keys.safetensors": first,
        "shape.pth": r"hold no tensor features\.3\.bias of shape \(192,\)",
        "tensor.pth": first,
        "pickle.pth": "cannot be read as tensors",
        "empty.pth": "cannot be read as tensors",
        "text.safetensors": "cannot be read as tensors",
        "nothing": "must hold exactly one file .* holds none",
        "two": r"must hold exactly one file .* holds 0\.pth, 1\.pth",
    }


def test_what_is_no_weights_is_named_in_one_sentence_with_the_way_out(tmp_path: Path) -> None:
    for name, message in wrong_files(tmp_path).items():
        pattern = rf"{re.escape(str(tmp_path / name))}.*{message}.*--lpips-weights"
        with pytest.raises(UsageError, match=pattern) as caught:
            find_lpips_weights(str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("by_environment", [True, False])
def test_a_wrong_path_ends_a_run_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    by_environment: bool,
) -> None:
    (tmp_path / "small.toml").write_text(SUITE.replace("[attack.imitation]", ""))
    suite, out = tmp_path / "small.toml", tmp_path / "out"
    arguments = ["leakbench", "run", str(suite), "--out", str(out)]
    if by_environment:
        monkeypatch.setenv("LEAKBENCH_LPIPS", "absent.pth")
    else:
        arguments += ["--lpips-weights", "absent.pth"]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as left:
        leakbench.cli.main.main()
    assert left.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"leakbench: LPIPS weights absent\.pth not found; .*\n", captured.err)
    assert not out.exists()
