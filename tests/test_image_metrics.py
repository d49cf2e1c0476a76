"""PSNR, SSIM and LPIPS of images against facts in closed form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from leakbench.metrics.image_metrics import lpips, lpips_network, psnr, ssim
from lpips_files import pictures

pytest_plugins = ["lpips_fixtures"]

pytestmark = pytest.mark.usefixtures("hub")


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
