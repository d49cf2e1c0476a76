"""Random augmentation of the images that clients train on."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.base.choices import Augmentation

SHIFT = 8
"""Images are shifted by up to 1/8 of their size: 4 pixels of 32, as is usual for CIFAR-10."""


def augmented(images: Tensor, kind: Augmentation, generator: torch.Generator) -> Tensor:
    """Return the images, each mirrored with probability 1/2, and perhaps shifted.

    Args:
        images: shape (n, channels, height, width).
        kind: `none` returns the same tensor; `flip_crop` pads by reflection and crops at random.
        generator: a CPU generator.

    Returns:
        The same shape.
    """
    if kind == "none":
        return images
    is_mirrored = torch.rand(len(images), generator=generator) < 0.5
    images = torch.where(is_mirrored.to(images.device)[:, None, None, None], images.flip(3), images)
    return images if kind == "flip" else _shifted(images, generator)


def _shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images, each cropped at a random place of itself padded by reflection."""
    height, width = images.shape[2:]
    most = height // SHIFT, width // SHIFT
    padded = functional.pad(images, (most[1], most[1], most[0], most[0]), mode="reflect")
    down, right = (
        torch.randint(2 * each + 1, (len(images),), generator=generator).tolist() for each in most
    )
    return torch.stack(
        [
            image[:, top : top + height, left : left + width]
            for image, top, left in zip(padded, down, right, strict=True)
        ]
    )
