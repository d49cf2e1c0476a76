"""Similarity of reconstructed images to the true ones: PSNR, SSIM and LPIPS of each image."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from leakbench.metrics.lpips_weights import read_convolutions

if TYPE_CHECKING:
    from torch import nn

PERFECT = 100.0
"""Upper bound of an image's PSNR in dB, which is infinite without any error."""

RECOGNISABLE = 20.0
"""PSNR in dB from which a reconstruction counts as recognisable."""

SSIM_SMALLEST, LPIPS_SMALLEST = 6, 31
"""Least height and width in pixels: for SSIM's reflected border, and for AlexNet's last layer.

Images of at least that size are compared without enlargement: at 32 px AlexNet's last three
layers have a single position.
"""


def psnr(images: Tensor, true: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of each image in dB, at most 100.

    Args:
        images, true: in [0, 1], shape (n, 3, height, width), as for the other metrics.

    Returns:
        Shape (n,), as for the other metrics.

    >>> psnr(torch.full((1, 3, 8, 8), 0.6), torch.full((1, 3, 8, 8), 0.5))
    tensor([20.0000])
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio

    found = peak_signal_noise_ratio(images, true, data_range=1.0, reduction="none", dim=(1, 2, 3))
    return found.clamp(max=PERFECT)


def ssim(images: Tensor, true: Tensor) -> Tensor:
    """Return the structural similarity of each image, in [-1, 1]; NaN for images below 6 px.

    Wang et al. 2004, Gaussian window of σ = 1.5, on colours, borders reflected and counted.

    >>> ssim(torch.full((1, 3, 8, 8), 0.5), torch.full((1, 3, 8, 8), 0.5))
    tensor([1.])
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    if min(true.shape[-2:]) < SSIM_SMALLEST:
        return torch.full((len(true),), torch.nan)
    found = structural_similarity_index_measure(images, true, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found


def lpips(images: Tensor, true: Tensor, network: nn.Module) -> Tensor:
    """Return the learned perceptual distance of each image; NaN for images below 31 px.

    Args:
        network: from `lpips_network`.
    """
    if min(true.shape[-2:]) < LPIPS_SMALLEST:
        return torch.full((len(true),), torch.nan)
    with torch.no_grad():
        # `normalize` scales [0, 1] to the [-1, 1] that the network was trained on.
        found: Tensor = network(images, true, normalize=True)
    return found.flatten()


@cache
def lpips_network(weights: Path) -> nn.Module:
    """Return LPIPS v0.1 (Zhang et al. 2018) on AlexNet, read once per process.

    Args:
        weights: a file that `find_lpips_weights` returned. The heads are part of the package.
    """
    from lpips import LPIPS

    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # about parameters that torchvision deprecates
        network: nn.Module = LPIPS(net="alex", pnet_rand=True, verbose=False)
    trunk = network.get_submodule("net")
    convolutions = read_convolutions(weights)
    # features.3.weight of torchvision's is slice2.3.weight here.
    trunk.load_state_dict(
        {name: convolutions[f"features.{name.partition('.')[2]}"] for name in trunk.state_dict()}
    )
    return network.requires_grad_(False)
