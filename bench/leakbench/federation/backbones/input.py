"""From the data's images to a network's input: crop, resize and normalise, differentiably."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Box = tuple[float, float, float, float]
"""Left, upper, right and lower edge, as shares of the image's width and height."""

WHOLE: Box = (0.0, 0.0, 1.0, 1.0)

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and deviation of red, green and blue in [0, 1]."""

IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
"""What networks of torchvision are trained with."""

CENTRED: Normalisation = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""To [-1, 1]."""


class Input(nn.Module):
    """Crops, resizes and normalises images; each output is linear in the pixels.

    Resizing is a product with one matrix for rows and one for columns, which any order of
    derivative, `vmap` and `make_fx` pass through.

    Args:
        size: height and width of the images.
        to: height and width of the network's input.
        box: the part of the image that is resized.
        normalisation: constants of the network.
    """

    rows: Tensor
    columns: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(
        self, size: int, to: tuple[int, int], box: Box, normalisation: Normalisation
    ) -> None:
        super().__init__()
        left, upper, right, lower = box
        self.resizes = (size, size) != to or box != WHOLE
        # Constants follow from the parameters of the model: no file of weights holds them.
        rows, columns = resampling(size, to[0], upper, lower), resampling(size, to[1], left, right)
        if self.resizes:
            self.register_buffer("rows", rows, persistent=False)
            self.register_buffer("columns", columns.T.contiguous(), persistent=False)
        mean, deviation = (torch.tensor(each)[:, None, None] for each in normalisation)
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("deviation", deviation, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the network's input, shape (n, 3, height, width).

        Args:
            images: in [0, 1], shape (n, 3, size, size).
        """
        if self.resizes:
            images = self.rows @ images @ self.columns
        return (images - self.mean) / self.deviation


def resampling(size: int, to: int, start: float, end: float) -> Tensor:
    """Return the matrix of a bilinear resampling along one axis, shape (to, size).

    Row i weights the pixels around the centre of the i-th of `to` equal parts of [start, end].
    Where parts are larger than pixels, the kernel is as wide as a part, so that no pixel is
    skipped.

    Args:
        size: pixels of the image.
        to: pixels of the result.
        start, end: of the part that is resampled, as shares of the image.
    """
    step = (end - start) * size / to
    centres = start * size + (torch.arange(to, dtype=torch.float64) + 0.5) * step - 0.5
    distances = (centres[:, None] - torch.arange(size, dtype=torch.float64)).abs()
    weights = (1 - distances / max(1.0, step)).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).float()
