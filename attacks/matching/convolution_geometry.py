"""The geometry of a convolution, and what convolutions of many runs share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Geometry:
    """Kernel (height, width), stride, padding, dilation and groups of a convolution."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int = 1

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Geometry:
        """Return a layer's geometry; its padding is the same on opposite sides, see `is_even`."""
        kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
        padding: Any = layer.padding
        if padding == "valid":
            padding = (0, 0)
        elif padding == "same":
            padding = [d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True)]
        return cls(_pair(kernel), _pair(stride), _pair(padding), _pair(dilation), layer.groups)

    @staticmethod
    def is_even(layer: nn.Conv2d) -> bool:
        """Whether a layer pads with zeros, and opposite sides by as many."""
        spans = zip(layer.dilation, layer.kernel_size, strict=True)
        odd = layer.padding == "same" and any(d * (k - 1) % 2 for d, k in spans)
        return layer.padding_mode == "zeros" and not odd

    @property
    def is_pointwise(self) -> bool:
        """Whether every position of the output sees the same position of the input alone."""
        return self.kernel == self.stride == (1, 1) and self.padding == (0, 0)

    def output_size(self, inputs: Tensor) -> tuple[int, int]:
        """Return height and width of the outputs for inputs (n, C, height, width)."""
        sizes = [
            (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            for size, kernel, stride, padding, dilation in zip(
                inputs.shape[2:], self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        ]
        return _pair(sizes)

    def flat(self) -> list[int]:
        """Return the nine numbers."""
        return [*self.kernel, *self.stride, *self.padding, *self.dilation, self.groups]

    @classmethod
    def from_flat(cls, flat: list[int]) -> Geometry:
        """Return the geometry of `flat`'s numbers."""
        kernel, stride, padding, dilation = (_pair(flat[i : i + 2]) for i in (0, 2, 4, 6))
        return cls(kernel, stride, padding, dilation, flat[8])


def backward(
    delta: Tensor, inputs: Tensor, kernel: Tensor, g: Geometry, which: int, groups: int = 1
) -> Tensor:
    """Return the gradient by inputs (0) or by the kernel (1) of one run."""
    wanted = [which == 0, which == 1, False]
    arguments = (list(g.stride), list(g.padding), list(g.dilation), False, [0, 0], groups, wanted)
    found = torch.ops.aten.convolution_backward(delta, inputs, kernel, None, *arguments)
    return cast("Tensor", found[which])


def by_run(images: Tensor, runs: int) -> tuple[Tensor, ...]:
    """Return each run's images, which stand one after another."""
    return images.tensor_split(runs)


def places(first: int, stride: int, count: int) -> slice:
    """Return `count` places from the first on, `stride` apart."""
    return slice(first, first + stride * (count - 1) + 1, stride)


def _pair(numbers: Any) -> tuple[int, int]:
    first, second = numbers
    return int(first), int(second)
