"""Where pretrained weights come from, what records call them, and what is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from leakbench.base.cache import DamagedFileWarning
from leakbench.base.documents import as_text, plain
from leakbench.base.errors import UsageError
from leakbench.base.files import WriteError
from leakbench.base.plugins import PluginSpec, parameters_of
from leakbench.base.registry import MODELS
from leakbench.experiments.descriptions import text_of
from leakbench.experiments.plugin_catalogue import description
from leakbench.federation.backbones import weight_downloads, weight_files, weight_registry
from leakbench.federation.backbones.weight_registry import FILES, PACKAGED, PUBLISHED
from leakbench.federation.backbones.weight_sources import (
    MissingWeightsError,
    NotDownloadedError,
    load_strictly,
    named,
    path_in_cache,
    provide,
    tensors_of,
)
from small_backbone import NAME, body_of, name_of, saved_weights

pytest_plugins = ["weight_fixtures"]

pytestmark = pytest.mark.usefixtures("own_cache")


def built(weights: str, **parameters: Any) -> Any:
    return PluginSpec(NAME, {"weights": weights, **parameters}).build(MODELS)


# Names


def test_a_file_becomes_the_name_of_its_content_and_is_found_by_it(model: str, file: Path) -> None:
    expected = load_file(file)
    plugin = built(str(file))
    assert parameters_of(plugin) == {"weights": name_of(file), "width": 4}
    file.unlink()
    found = tensors_of(plugin.weights, model)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    extractor = plugin.build(3, 32, "convolutions").extractor
    assert torch.equal(extractor[1][0].weight, expected["0.weight"])


def test_words_and_names_of_contents_stay_what_they_are() -> None:
    digest = f"sha256:{'0a' * 32}"
    for weights in ("none", "download", "package", digest):
        assert named(weights) == weights
    assert named(digest.upper()) == digest


def test_a_file_of_the_same_name_with_other_content_has_another_name(file: Path) -> None:
    before, changed = named(str(file)), file.stat()
    saved_weights(file, seed=2)
    os.utime(file, ns=(changed.st_atime_ns, changed.st_mtime_ns))
    assert file.stat().st_size == changed.st_size
    assert named(str(file)) == name_of(file) != before


def test_a_file_is_read_once_for_its_digest(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = named(str(file))
    monkeypatch.setattr(weight_files.hashlib, "file_digest", None)
    assert named(str(file)) == first


def test_no_path_is_kept_in_the_cache(file: Path, own_cache: Path) -> None:
    named(str(file))
    kept = [path for path in own_cache.rglob("*") if path.is_file()]
    assert len(kept) >= 3
    assert not any(str(file.parent).encode() in path.read_bytes() for path in kept)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("downlaod", r"no such file; did you mean download\?"),
        ("packages", r"no such file; did you mean package\?"),
        ("private/mien.safetensors", r"no such file; did you mean private/mine\.safetensors\?"),
        ("elsewhere/x.safetensors", r"no such file; name a safetensors file, or take none, "),
        ("private", r"this is a folder; name the safetensors file in it"),
        ("sha256:abc", r"64 hexadecimal digits, and this has 3 characters"),
        ("~nobody-of-this-name/x", r"cannot be read"),
        ("a\0b", r"no such file"),
        ("x" * 5000, r"cannot be read"),
    ],
)
def test_what_names_no_weights_is_one_sentence(
    model: str, file: Path, monkeypatch: pytest.MonkeyPatch, weights: str, message: str
) -> None:
    monkeypatch.chdir(file.parent.parent)
    with pytest.raises(UsageError, match=rf"^model '{NAME}': weights: .*{message}") as caught:
        built(weights)
    assert "\n" not in str(caught.value)


def test_a_number_is_no_weights(model: str) -> None:
    with pytest.raises(UsageError, match=rf"model '{NAME}': weights: input should be a valid str"):
        built(3)  # type: ignore[arg-type]


# Files


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("name", ["w.pt", "w.pth", "w.bin", "w.safetensors"])
def test_a_pickle_is_refused_with_how_to_convert_it(
    model: str, tmp_path: Path, name: str, zipped: bool
) -> None:
    torch.save(body_of().state_dict(), tmp_path / name, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UsageError, match=r"is a pickle, .*save_file\(torch\.load\(FILE") as caught:
        built(str(tmp_path / name))
    assert "\n" not in str(caught.value)


def test_the_advice_on_pickles_converts_one(tmp_path: Path) -> None:
    torch.save(body_of().state_dict(), tmp_path / "w.pth")
    save_file(torch.load(tmp_path / "w.pth", weights_only=True), tmp_path / "w.safetensors")
    load_strictly(body_of(), tensors_of(named(str(tmp_path / "w.safetensors")), NAME), NAME)


def test_a_truncated_file_is_refused(model: str, file: Path) -> None:
    whole = file.read_bytes()
    for length in (0, 5, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        with pytest.raises(UsageError, match="no safetensors file, or a truncated or damaged one"):
            built(str(file))


def test_a_file_without_tensors_is_refused(model: str, tmp_path: Path) -> None:
    save_file({}, tmp_path / "empty.safetensors")
    with pytest.raises(UsageError, match="holds no tensors"):
        built(str(tmp_path / "empty.safetensors"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_refused(model: str, file: Path) -> None:
    file.chmod(0)
    with pytest.raises(UsageError, match="cannot be read"):
        built(str(file))


def test_a_cache_that_cannot_be_written_is_named(
    model: str, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plain").write_text("")
    monkeypatch.setenv("LEAKBENCH_CACHE", str(tmp_path / "plain"))
    with pytest.raises(WriteError, match=r"cannot write to the cache .*set LEAKBENCH_CACHE"):
        built(str(file))


# Finding weights by their content


def test_weights_are_found_by_content_under_the_data_root(tmp_path: Path, own_cache: Path) -> None:
    saved_weights(tmp_path / "data" / "backbones" / "other.safetensors", seed=7)
    there = saved_weights(tmp_path / "data" / "backbones" / "any name.safetensors")
    weights = name_of(there)
    with pytest.raises(MissingWeightsError, match=rf"{NAME} has {weights}.*DIR/backbones"):
        provide(weights, NAME, None)
    provide(weights, NAME, tmp_path / "data")
    there.unlink()
    provide(weights, NAME, None)
    assert tensors_of(weights, NAME).keys() == {*body_of().state_dict(), "fc.weight"}
    assert path_in_cache(weights, NAME) == f"weights/{weights.removeprefix('sha256:')}"


def test_files_beside_are_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        saved_weights(tmp_path / "backbones" / f"{seed}.safetensors", seed=seed)
    missing = f"sha256:{64 * '0'}"
    with pytest.raises(MissingWeightsError):
        provide(missing, NAME, tmp_path)
    monkeypatch.setattr(weight_files.hashlib, "file_digest", None)
    with pytest.raises(MissingWeightsError):
        provide(missing, NAME, tmp_path)


@pytest.mark.parametrize("damage", ["flipped", "shorter"])
def test_a_damaged_copy_is_never_used_and_is_made_again(
    tmp_path: Path, own_cache: Path, damage: str
) -> None:
    there = saved_weights(tmp_path / "backbones" / "mine.safetensors")
    weights = named(str(there))
    (copy,) = (own_cache / "weights").glob("*.safetensors")
    content = bytearray(copy.read_bytes())
    content[-3] ^= 1
    copy.write_bytes(content if damage == "flipped" else content[:-1])
    with pytest.raises(MissingWeightsError):
        tensors_of(weights, NAME)
    with pytest.raises(MissingWeightsError):
        provide(weights, NAME, None)
    with pytest.warns(DamagedFileWarning, match="was damaged and is made again"):
        provide(weights, NAME, tmp_path)
    assert name_of(copy) == weights
    assert tensors_of(weights, NAME)


def test_a_stored_file_is_verified_before_it_is_used(own_cache: Path, tmp_path: Path) -> None:
    """The name decides: another good file under it is as bad as a damaged one."""
    weights = named(str(saved_weights(tmp_path / "a.safetensors")))
    (copy,) = (own_cache / "weights").glob("*.safetensors")
    other = saved_weights(tmp_path / "b.safetensors", seed=5)
    weight_files.store_file(weight_files.cached_path(copy.stem), other.read_bytes())
    with pytest.raises(MissingWeightsError):
        tensors_of(weights, NAME)


def test_a_path_is_no_name_in_a_record(file: Path) -> None:
    for asks in (tensors_of, lambda weights, model: provide(weights, model, None)):
        with pytest.raises(UsageError, match="none of none, download, package and sha256:DIGEST"):
            asks(str(file), NAME)


def test_random_weights_need_nothing() -> None:
    provide("none", NAME, None)
    assert tensors_of("none", NAME) == {}
    assert path_in_cache("none", NAME) is None


# Loading


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {n: x for n, x in t.items() if not n.startswith("0")},
            r"the file lacks 2 of 7 tensors, the first '0\.weight'; these are weights of another",
        ),
        (
            lambda t: t | {"layer9.weight": torch.ones(2), "layer9.bias": torch.ones(2)},
            r"has in addition 2 tensors, the first 'layer9\.weight'; these are weights of another",
        ),
        (
            lambda t: {f"net.{n}": x for n, x in t.items()},
            r"lacks 6 of 7 .* and has in addition 7 tensors, the first 'net\.",
        ),
        (
            lambda t: t | {"0.weight": torch.ones(4, 3, 5, 5)},
            r"'0\.weight' has shape \(4, 3, 5, 5\) and must have \(4, 3, 3, 3\); these are weights",
        ),
        (
            lambda t: t | {"1.bias": torch.tensor([1, torch.nan, torch.inf, 0])},
            r"2 of 4 values of tensor '1\.bias' are infinite or no number",
        ),
        (
            lambda t: t | {"1.bias": torch.zeros(4, dtype=torch.int8)},
            r"'1\.bias' is of type int8 and must be float32; quantised",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused_and_leave_the_network_alone(
    change: Callable[[dict[str, Any]], dict[str, Any]], message: str
) -> None:
    network = body_of()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    with pytest.raises(UsageError, match=rf"^the weights of model {NAME} .*{message}") as caught:
        load_strictly(network, change(body_of().state_dict()), NAME)
    assert "\n" not in str(caught.value)
    after = network.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_ignored_tensors_need_no_counterpart_and_are_not_loaded() -> None:
    source, network = body_of().state_dict(), body_of()
    kept = network.state_dict()["1.weight"].clone()
    extra = source | {"fc.weight": torch.ones(1), "1.weight": torch.full((4,), 7.0)}
    load_strictly(network, extra, NAME, ["fc", "1.weight"])
    assert torch.equal(network.state_dict()["0.weight"], source["0.weight"])
    assert torch.equal(network.state_dict()["1.weight"], kept)
    with pytest.raises(UsageError, match="first 'fcx'"):
        load_strictly(network, extra | {"fcx": torch.ones(1)}, NAME, ["fc", "1.weight"])


def test_half_precision_is_loaded_and_counters_may_be_missing() -> None:
    source = {n: t.half() for n, t in body_of().state_dict().items() if t.is_floating_point()}
    network = body_of()
    load_strictly(network, source, NAME)
    assert torch.equal(network.state_dict()["0.weight"], source["0.weight"].float())


# Downloads


def test_a_download_happens_once_and_is_then_in_the_cache(server: list[str], hub: Path) -> None:
    provide("download", "resnet18", None)
    provide("download", "resnet18", None)
    assert len(server) == 1
    for path in (hub / "checkpoints").iterdir():
        path.unlink()
    assert tensors_of("download", "resnet18").keys() == body_of().state_dict().keys()
    assert len(server) == 1
    assert path_in_cache("download", "resnet18") == "weights/resnet18_weights.imagenet1k_v1"


def test_a_damaged_file_of_the_hub_is_refused(server: list[str], hub: Path) -> None:
    file = hub / "checkpoints" / Path(weight_downloads._url(PUBLISHED["resnet18"])).name
    file.parent.mkdir(parents=True)
    torch.save({"0.weight": torch.zeros(1)}, file)
    with pytest.raises(UsageError, match="are damaged; delete the file and run again"):
        provide("download", "resnet18", None)
    assert server == []


def test_a_download_that_is_refused_fetches_nothing(server: list[str]) -> None:
    with pytest.raises(NotDownloadedError, match=r"resnet18 .*IMAGENET1K_V1.*weights=download"):
        provide("download", "resnet18", None, "refused")
    assert server == []
    provide("download", "resnet18", None)
    provide("download", "resnet18", None, "refused")


def test_a_download_that_fails_is_one_sentence(
    hub: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(UsageError, match=r"could not be downloaded from https.*no network") as why:
        provide("download", "resnet18", None)
    assert "\n" not in str(why.value)
    assert "model.weights=FILE" in str(why.value)


def test_a_model_without_published_weights_says_what_it_has() -> None:
    with pytest.raises(UsageError, match="none or a safetensors FILE"):
        provide("download", "mobilefacenet", None)
    with pytest.raises(UsageError, match="none, package or a safetensors FILE"):
        provide("download", "efficientnet_lite0", None)
    with pytest.raises(UsageError, match="none, download or a safetensors FILE"):
        provide("package", "resnet50", None)


@pytest.mark.parametrize("name", PUBLISHED)
def test_torchvision_publishes_what_the_registry_says(name: str) -> None:
    from torchvision.models import get_model_weights, get_weight

    weights = get_weight(PUBLISHED[name].enum)
    assert weights in get_model_weights(name)
    assert re.fullmatch(r"[0-9a-f]{8}", Path(weights.url).stem.rpartition("-")[2])


# The package


def test_the_package_ships_the_weights_that_the_registry_knows() -> None:
    pytest.importorskip(PACKAGED["efficientnet_lite0"].module, reason="needs the extra pretrained")
    provide("package", "efficientnet_lite0", None)
    tensors = tensors_of("package", "efficientnet_lite0")
    assert all(torch.isfinite(tensor.float()).all() for tensor in tensors.values())
    assert sum(tensor.numel() for tensor in tensors.values()) > 4_000_000


def test_a_package_that_is_not_installed_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_downloads, "find_spec", lambda module: None)
    with pytest.raises(UsageError, match=r"not installed; install leakbench\[pretrained\]"):
        provide("package", "efficientnet_lite0", None)


def test_other_weights_in_the_package_are_refused(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setattr(weight_downloads, "find_spec", lambda module: module)
    monkeypatch.setattr(weight_downloads, "_file_in", lambda shipped: file)
    with pytest.raises(UsageError, match=r"not those that leakbench knows as `package`"):
        tensors_of("package", "efficientnet_lite0")


# What is shown


def test_tables_show_twelve_digits_and_the_title_of_known_weights() -> None:
    known = "sha256:b6eab361f7eb2036193cb90124cb21953a0d2dffdb292947af088868f6888cda"
    shown = text_of({"weights": known, "width": 4})
    assert shown == ("weights = sha256:b6eab361f7eb (MobileFaceNet on CASIA-WebFace), width = 4")
    assert text_of(f"sha256:{64 * 'a'}") == f"sha256:{12 * 'a'}"
    assert text_of({"weights": "none"}) == "weights = none"


def test_show_says_where_weights_come_from_and_their_terms(model: str) -> None:
    said = as_text(description(model), plain)
    assert "Weights:\n- none: random weights\n- FILE:" in said
    of = {name: "\n".join(weight_registry.sources_text(name)) for name in (*PUBLISHED, *PACKAGED)}
    assert all("download: " in of[name] and "terms: " in of[name] for name in PUBLISHED)
    assert "package: EfficientNet-Lite0 on ImageNet" in of["efficientnet_lite0"]
    faces = "\n".join(weight_registry.sources_text("mobilefacenet"))
    assert all(name in faces and known.terms in faces for name, known in FILES.items())
    assert "sha256:b6" not in of["resnet18"]


def test_the_known_weights_are_those_of_the_research_data(data_root: Path) -> None:
    there = data_root / "backbones" / "mobilefacenet.safetensors"
    if not there.is_file():
        pytest.skip(f"no {there}")
    assert named(str(there)) in FILES
    with safe_open(there, "pt") as opened:
        assert "conv1.conv.weight" in set(opened.keys())
