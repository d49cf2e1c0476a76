"""Reconstructed images against the true ones: facts in closed form, weights, records, report."""

from __future__ import annotations

import doctest
import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional

import leakbench.cli.main
import leakbench.metrics.image_metrics
from leakbench.base.errors import UsageError
from leakbench.evaluation.measuring import victim_batches
from leakbench.evaluation.preparation import EvaluationContext, prepare
from leakbench.evaluation.scoring import score
from leakbench.experiments.cell import Cell, Setup
from leakbench.experiments.resolved_cell import ResolvedCell
from leakbench.experiments.suite import SuiteEntry
from leakbench.metrics.image_metrics import lpips, lpips_network, psnr, ssim
from leakbench.metrics.lpips_weights import SHAPES, find_lpips_weights, read_convolutions
from leakbench.records.measured import Measured
from leakbench.records.record import Cost, Record
from leakbench.reports.details import details
from leakbench.threat.attack import AttackResult
from leakbench.threat.observation import GroundTruth, Observation
from leakbench.threat.validation import check_results

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

HUB = "checkpoints/alexnet-owt-7be5be79.pth"


@pytest.fixture(autouse=True)
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


def test_examples_in_docstrings_are_true() -> None:
    failed, tried = doctest.testmod(leakbench.metrics.image_metrics)
    assert tried
    assert not failed


def test_psnr_is_each_image_s_own() -> None:
    true = torch.full((3, 3, 8, 8), 0.5)
    errors = torch.tensor([0.1, 0.01, 0.5]).view(3, 1, 1, 1)
    expected = -20 * torch.log10(errors.flatten())
    torch.testing.assert_close(psnr(true + errors, true), expected, rtol=1e-4, atol=0)


def test_psnr_of_a_perfect_image_is_capped() -> None:
    assert psnr(pictures(2), pictures(2)).tolist() == [100.0, 100.0]


def test_ssim_of_identical_images_is_1_and_of_negatives_below_0() -> None:
    images = pictures(4)
    torch.testing.assert_close(ssim(images, images), torch.ones(4))
    assert (ssim(1 - images, images) < 0).all()


def test_ssim_of_flat_images_has_only_its_luminance_term() -> None:
    light, dark = torch.full((1, 3, 16, 16), 0.8), torch.full((1, 3, 16, 16), 0.2)
    c1 = 0.01**2
    expected = (2 * 0.8 * 0.2 + c1) / (0.8**2 + 0.2**2 + c1)
    assert ssim(light, dark).item() == pytest.approx(expected, rel=1e-3)


def test_lpips_is_0_for_equal_images_and_grows_with_noise(weights: Path) -> None:
    images, network = pictures(4), lpips_network(weights)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    assert lpips(images, images, network).tolist() == [0.0] * 4
    little, much = (lpips((images + s * noise).clamp(0, 1), images, network) for s in (0.05, 0.5))
    assert (little > 0).all()
    assert (little < much).all()


def test_each_metric_has_one_value_an_image_whatever_stands_beside_it(weights: Path) -> None:
    true, images = pictures(5), pictures(5).flip(0)
    network = lpips_network(weights)
    for metric in (psnr, ssim, lambda a, b: lpips(a, b, network)):
        one_by_one = [metric(images[i : i + 1], true[i : i + 1]) for i in range(5)]
        torch.testing.assert_close(metric(images, true), torch.cat(one_by_one))


def test_metrics_of_images_that_are_too_small_are_undefined_not_an_error(weights: Path) -> None:
    network = lpips_network(weights)
    assert ssim(pictures(2, 5), pictures(2, 5)).isnan().all()
    assert ssim(pictures(2, 6), pictures(2, 6)).isfinite().all()
    assert lpips(pictures(2, 30), pictures(2, 30), network).isnan().all()
    assert lpips(pictures(2, 31), pictures(2, 31), network).isfinite().all()


def test_lpips_is_zhang_s_formula_on_the_real_weights(real_weights: Path) -> None:
    """Unit-normalised activations of five layers, squared differences weighted by the heads."""
    layers = torch.load(real_weights / "alexnet_features.pth", weights_only=True)
    heads = torch.load(real_weights / "lpips_v0.1_alexnet_lin.pth", weights_only=True)
    true = pictures(2, 64)
    images = (
        true + 0.2 * torch.randn(true.shape, generator=torch.Generator().manual_seed(1))
    ).clamp(0, 1)

    def activations(x: Tensor) -> list[Tensor]:
        shift = torch.tensor([-0.030, -0.088, -0.188]).view(3, 1, 1)
        x = (2 * x - 1 - shift) / torch.tensor([0.458, 0.448, 0.450]).view(3, 1, 1)
        found = []
        for number, stride, padding in ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1)):
            if number in (3, 6):
                x = functional.max_pool2d(x, 3, 2)
            weight, bias = (layers[f"features.{number}.{part}"] for part in ("weight", "bias"))
            x = functional.conv2d(x, weight, bias, stride, padding).relu()
            found.append(functional.normalize(x, dim=1))
        return found

    expected = sum(
        functional.conv2d((a - b) ** 2, heads[f"lin{i}.model.1.weight"]).mean((1, 2, 3))
        for i, (a, b) in enumerate(zip(activations(images), activations(true), strict=True))
    )
    network = lpips_network(real_weights / "alexnet_features.pth")
    torch.testing.assert_close(lpips(images, true, network), expected)


@pytest.mark.real_data
def test_lpips_of_the_official_example_pair(real_weights: Path) -> None:
    files = [real_weights / f"ex_{name}.png" for name in ("ref", "p0", "p1")]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        pytest.skip(f"{', '.join(missing)} of the LPIPS repository's imgs/ not in {real_weights}")
    true, *images = (
        torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 255
        for path in files
    )
    network = lpips_network(real_weights / "alexnet_features.pth")
    found = [lpips(image, true, network).item() for image in images]
    assert found == pytest.approx([0.7219, 0.1376], abs=5e-4)


def test_reading_of_lpips_changes_no_random_numbers_and_says_nothing(
    weights: Path, capfd: pytest.CaptureFixture[str], no_download: None
) -> None:
    lpips_network.cache_clear()
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    assert lpips_network(weights) is lpips_network(weights)
    assert torch.equal(torch.rand(1), expected)
    assert capfd.readouterr() == ("", "")


# Weights


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


# Records


@pytest.fixture(scope="module")
def context(small_setup: Setup) -> EvaluationContext:
    return prepare(small_setup, None, "cpu", lambda message: None)


@pytest.fixture(scope="module")
def cell(small_setup: Setup) -> Cell:
    return Cell(**small_setup.model_dump(), attack="oracle", batch_size=4, individuals=12)


@pytest.fixture(scope="module")
def truths(context: EvaluationContext, cell: Cell) -> list[GroundTruth]:
    return victim_batches(context, cell.batch_size, cell.individuals)


def answers(truths: Sequence[GroundTruth], error: float = 0.0) -> list[AttackResult]:
    """The truth as an attack's answer, images off by an error that differs between individuals."""
    size = len(truths[0])
    errors = error * torch.arange(1, size + 1).view(size, 1, 1, 1)
    return [
        AttackResult(
            scores={name: present.float() for name, present in truth.properties.items()},
            features=truth.features,
            # Towards the middle, so that clamping takes nothing off the error.
            images=truth.images + errors * (0.5 - truth.images).sign(),
        )
        for truth in truths
    ]


def test_images_that_are_the_true_ones_are_perfect(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext, weights: Path
) -> None:
    images = score(truths, answers(truths), cell, context, weights).images
    assert images is not None
    assert images.lpips is not None
    assert images.psnr.value == 100
    assert images.ssim.value == pytest.approx(1)
    assert images.lpips.value == 0
    assert images.recognisable.value == 1


def test_the_record_holds_the_mean_of_the_individuals_own_values(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext
) -> None:
    found = score(truths, answers(truths, 0.04), cell, context).images
    assert found is not None
    # Errors of 0.04, 0.08, 0.12 and 0.16: two are below 0.1, which is 20 dB.
    expected = np.mean([-20 * np.log10(0.04 * i) for i in (1, 2, 3, 4)])
    assert found.psnr.value == pytest.approx(expected, rel=1e-4)
    assert found.recognisable.value == 0.5
    assert found.lpips is None
    # The batches are alike, so resampling them changes nothing.
    assert found.psnr.low == pytest.approx(found.psnr.high)


def test_images_are_matched_by_features_never_by_pixels(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext, weights: Path
) -> None:
    results = answers(truths, 0.01)
    swap = torch.tensor([1, 0, 3, 2])

    def swapped(features: bool) -> list[AttackResult]:
        return [
            replace(
                result,
                images=result.images[swap],  # type: ignore[index]
                features=result.features[swap] if features else result.features,  # type: ignore[index]
                scores={name: s[swap] for name, s in result.scores.items()},
            )
            for result in results
        ]

    straight = score(truths, results, cell, context, weights)
    assert score(truths, swapped(features=True), cell, context, weights) == straight
    misled = score(truths, swapped(features=False), cell, context, weights)
    assert straight.images is not None
    assert misled.images is not None
    assert straight.images.psnr.value is not None
    assert misled.images.psnr.value is not None
    assert misled.images.psnr.value < straight.images.psnr.value - 10


def test_pixels_outside_of_the_range_are_clamped(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext, weights: Path
) -> None:
    black_and_white = [replace(truth, images=truth.images.round()) for truth in truths]
    beyond = [
        replace(result, images=5 * (truth.images - 0.5))
        for result, truth in zip(answers(truths), black_and_white, strict=True)
    ]
    images = score(black_and_white, beyond, cell, context, weights).images
    assert images is not None
    assert images.lpips is not None
    assert images.psnr.value == 100
    assert images.lpips.value == 0


def test_an_attack_without_images_has_no_image_metrics(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext, weights: Path
) -> None:
    without = [replace(result, images=None) for result in answers(truths)]
    assert score(truths, without, cell, context, weights).images is None


def test_images_need_features_to_be_matched_by(
    truths: list[GroundTruth], context: EvaluationContext
) -> None:
    answer = replace(
        answers(truths)[0],
        scores={name: torch.full((4,), 0.5) for name in truths[0].properties},
        features=None,
    )
    with pytest.raises(UsageError, match=r"attack 'stub' returned images but no features"):
        check_results("stub", [answer], [Observation(batch_size=4, seed=0)], context.server)


def reconstruction_table(
    truths: list[GroundTruth],
    cell: Cell,
    context: EvaluationContext,
    answer: list[AttackResult],
    file: Path | None,
) -> tuple[dict[str, str], str]:
    """The row of a record in the report's table, by column, and the report."""
    record = Record(
        key="0",
        cell=cell,
        attack_version=1,
        status="done",
        metrics=score(truths, answer, cell, context, file),
        cost=Cost(seconds=1, steps=1, peak_memory_mib=1),
    )
    assert Record.model_validate_json(record.model_dump_json()) == record
    entry = SuiteEntry(
        ResolvedCell.of(cell), key="0", group="Table 2", layout="table2", column="Stub"
    )
    report = details([Measured(entry, record)])
    columns, _, row = (line for line in report.split("##")[1].splitlines() if line[:1] == "|")
    split = ([part.strip() for part in line.strip("|").split("|")] for line in (columns, row))
    return dict(zip(*split, strict=True)), report


def test_the_report_shows_the_metrics_of_images(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext, weights: Path
) -> None:
    row, report = reconstruction_table(truths, cell, context, answers(truths, 0.1), weights)
    assert re.fullmatch(r"13\.1 \[13\.1, 13\.1\]", row["PSNR, dB"])
    for column in ("SSIM", "LPIPS"):
        assert re.fullmatch(r"0\.\d{3} \[0\.\d{3}, 0\.\d{3}\]", row[column])
    assert row["≥ 20 dB, %"].endswith("]")
    assert "--lpips-weights" not in report


def test_the_report_says_how_to_get_lpips_where_weights_were_missing(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext
) -> None:
    row, report = reconstruction_table(truths, cell, context, answers(truths), None)
    assert row["LPIPS"] == "no weights"
    assert row["PSNR, dB"] == "100.0 [100.0, 100.0]"
    after = report.split("no weights", 2)[2]
    assert "--lpips-weights PATH" in after.split("##")[0]


def test_the_report_leaves_the_columns_empty_where_there_are_no_images(
    truths: list[GroundTruth], cell: Cell, context: EvaluationContext
) -> None:
    without = [replace(result, images=None) for result in answers(truths)]
    row, report = reconstruction_table(truths, cell, context, without, None)
    assert {row[c] for c in ("PSNR, dB", "SSIM", "LPIPS", "≥ 20 dB, %")} == {"–"}
    assert "no weights" not in report


IMITATION = """
from dataclasses import dataclass
from leakbench import Attack, AttackResult, Knowledge, register_attack

@register_attack("imitation")
@dataclass(frozen=True, kw_only=True)
class Imitation(Attack):
    title = "Imitation"
    reference = "none"
    required_knowledge = Knowledge.MODEL | Knowledge.AUXILIARY

    def infer(self, server, observations, progress):
        space, found = server.feature_space, []
        for o in observations:
            features = space.features[: o.batch_size]
            images = server.auxiliary.images[: o.batch_size]
            scores = space.property_model(features)
            found.append(AttackResult(scores=scores, features=features, images=images))
        return found
"""


@pytest.mark.slow
def test_weights_named_later_bring_lpips_into_the_records_that_lack_it(
    tmp_path: Path, weights: Path
) -> None:
    site = tmp_path / "site"
    (site / "imitation-1.dist-info").mkdir(parents=True)
    (site / "imitation_attack.py").write_text(IMITATION)
    (site / "imitation-1.dist-info" / "METADATA").write_text("Name: imitation\nVersion: 1\n")
    (site / "imitation-1.dist-info" / "entry_points.txt").write_text(
        "[leakbench.attacks]\nimitation = imitation_attack:Imitation\n"
    )
    (tmp_path / "small.toml").write_text(SUITE)
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))

    def run(*arguments: str) -> tuple[str, dict[str, Any]]:
        """Return what the run says, and the metrics of images by attack."""
        done = subprocess.run(
            [
                *(sys.executable, "-m", "leakbench", "run", str(tmp_path / "small.toml")),
                *("--out", str(tmp_path / "out"), "--device", "cpu", "--workers", "1", *arguments),
            ],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        files = (tmp_path / "out" / "records").glob("*.json")
        records = [json.loads(file.read_text()) for file in files]
        return done.stderr, {r["cell"]["attack"]: r["metrics"]["images"] for r in records}

    _, first = run()
    assert first["prior"] is None
    assert first["imitation"]["lpips"] is None
    report = (tmp_path / "out" / "small.md").read_text()
    assert "no weights" in report

    said, again = run()
    assert "2 of 2 cells have their record" in said
    assert again == first

    said, with_weights = run("--lpips-weights", str(weights))
    assert "1 of 2 cells have their record" in said
    assert with_weights["imitation"].pop("lpips")["value"] > 0
    del first["imitation"]["lpips"]
    assert with_weights == first
    assert "no weights" not in (tmp_path / "out" / "small.md").read_text()

    said, _ = run("--lpips-weights", str(weights))
    assert "2 of 2 cells have their record" in said
