"""Convolutions in which every run has a kernel of its own, and their weight gradients.

R runs stand one after another in a batch of R·B images. Three operations are each other's
derivatives: from inputs and output gradients to R kernels (`weight_gradients`), from inputs and R
kernels to outputs (`convolve`), and from output gradients and R kernels to inputs (`transpose`).

Where a run has little to do, calling a library's convolution for each run costs more than the work;
there it is one product of batches of matrices over patches of the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Geometry:
    """Kernel (height, width), stride, padding and dilation of a convolution in one group."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]

    @classmethod
    def of(cls, layer: nn.Conv2d) -> Geometry:
        """Return a layer's geometry; its padding is given in numbers."""
        kernel, stride, dilation = layer.kernel_size, layer.stride, layer.dilation
        padding = cast("tuple[int, int]", layer.padding)
        return cls(_pair(kernel), _pair(stride), _pair(padding), _pair(dilation))

    def flat(self) -> list[int]:
        """Return the eight numbers."""
        return [*self.kernel, *self.stride, *self.padding, *self.dilation]

    @classmethod
    def from_flat(cls, flat: list[int]) -> Geometry:
        """Return the geometry of `flat`'s numbers."""
        return cls(*(_pair(flat[i : i + 2]) for i in (0, 2, 4, 6)))


def weight_gradients(inputs: Tensor, deltas: Tensor, runs: int, geometry: Geometry) -> Tensor:
    """Return each run's weight gradient, differentiable once by inputs and deltas.

    Args:
        inputs: of the layer, shape (R·B, C, height, width).
        deltas: gradient of the loss by its outputs, shape (R·B, O, height', width').

    Returns:
        Shape (R, O, C, *kernel).
    """
    return cast("Tensor", _WeightGradients.apply(inputs, deltas, runs, geometry))


class _WeightGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, inputs: Tensor, deltas: Tensor, runs: int, geometry: Geometry) -> Tensor:
        ctx.save_for_backward(inputs, deltas)
        ctx.geometry = geometry
        found: Tensor = _weight_gradients(inputs, deltas, runs, geometry.flat())
        return found

    @staticmethod
    def backward(ctx: Any, kernels: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        inputs, deltas = ctx.saved_tensors
        by_inputs, by_deltas = ctx.needs_input_grad[:2]
        flat = ctx.geometry.flat()
        return (
            _transpose(deltas, kernels, inputs, flat) if by_inputs else None,
            _convolve(inputs, kernels, flat) if by_deltas else None,
            None,
            None,
        )


# As operators of PyTorch they stand in a traced step as one call each, and not as a call for each
# run, which would take minutes to compile.


@torch.library.custom_op(
    "leakbench::weight_gradients",
    mutates_args=(),
    schema="(Tensor inputs, Tensor deltas, int runs, int[] geometry) -> Tensor",
)
def _weight_gradients(inputs: Tensor, deltas: Tensor, runs: int, geometry: list[int]) -> Tensor:
    g = Geometry.from_flat(geometry)
    outputs, channels = deltas.shape[1], inputs.shape[1]
    if _as_patches(inputs, outputs, runs, g):
        kernels = _rows(deltas, runs).mT @ _patches(inputs, runs, g)
        return kernels.view(runs, outputs, *g.kernel, channels).permute(0, 1, 4, 2, 3)
    found = _kernels(inputs, (runs, outputs, channels, *g.kernel))
    of_runs = zip(found, _by_run(inputs, runs), _by_run(deltas, runs), strict=True)
    for kernel, x, delta in of_runs:
        kernel.copy_(_backward(delta, x, kernel, g, 1))
    return found


@_weight_gradients.register_fake
def _(inputs: Tensor, deltas: Tensor, runs: int, geometry: list[int]) -> Tensor:
    kernel = Geometry.from_flat(geometry).kernel
    return _kernels(inputs, (runs, deltas.shape[1], inputs.shape[1], *kernel))


@torch.library.custom_op(
    "leakbench::convolve",
    mutates_args=(),
    schema="(Tensor inputs, Tensor kernels, int[] geometry) -> Tensor",
)
def _convolve(inputs: Tensor, kernels: Tensor, geometry: list[int]) -> Tensor:
    g, runs = Geometry.from_flat(geometry), len(kernels)
    if _as_patches(inputs, kernels.shape[1], runs, g):
        rows = _patches(inputs, runs, g) @ _flat(kernels).mT
        height, width = _output_size(inputs, g)
        return rows.view(len(inputs), height, width, -1).permute(0, 3, 1, 2)
    outputs = [
        functional.conv2d(x, kernel, None, g.stride, g.padding, g.dilation)
        for x, kernel in zip(_by_run(inputs, runs), _channels_last(kernels), strict=True)
    ]
    return torch.cat(outputs).contiguous(memory_format=torch.channels_last)


@_convolve.register_fake
def _(inputs: Tensor, kernels: Tensor, geometry: list[int]) -> Tensor:
    size = _output_size(inputs, Geometry.from_flat(geometry))
    rows = inputs.new_empty(len(inputs), *size, kernels.shape[1])
    return rows.permute(0, 3, 1, 2)


@torch.library.custom_op(
    "leakbench::transpose",
    mutates_args=(),
    schema="(Tensor deltas, Tensor kernels, Tensor inputs, int[] geometry) -> Tensor",
)
def _transpose(deltas: Tensor, kernels: Tensor, inputs: Tensor, geometry: list[int]) -> Tensor:
    g, runs = Geometry.from_flat(geometry), len(kernels)
    if _as_patches(inputs, kernels.shape[1], runs, g):
        return _fold(_rows(deltas, runs) @ _flat(kernels), inputs, g)
    parts = zip(_by_run(deltas, runs), _by_run(inputs, runs), _channels_last(kernels), strict=True)
    found = torch.cat([_backward(d, x, kernel, g, 0) for d, x, kernel in parts])
    return found.contiguous(memory_format=torch.channels_last)


@_transpose.register_fake
def _(deltas: Tensor, _kernels: Tensor, inputs: Tensor, _geometry: list[int]) -> Tensor:
    images, channels, height, width = inputs.shape
    return deltas.new_empty(images, height, width, channels).permute(0, 3, 1, 2)


def _as_patches(inputs: Tensor, outputs: int, runs: int, g: Geometry) -> bool:
    """Whether a run has so little to do that calling a library for each costs more."""
    positions = math.prod(_output_size(inputs, g)) * len(inputs) // runs
    products = positions * outputs * inputs.shape[1] * math.prod(g.kernel)
    return runs > 1 and products < (LITTLE if inputs.device.type == "cpu" else LITTLE_ON_A_GPU)


def _backward(delta: Tensor, inputs: Tensor, kernel: Tensor, g: Geometry, which: int) -> Tensor:
    """Return the gradient by inputs (0) or by the kernel (1) of one run."""
    wanted = [which == 0, which == 1, False]
    arguments = (list(g.stride), list(g.padding), list(g.dilation), False, [0, 0], 1, wanted)
    found = torch.ops.aten.convolution_backward(delta, inputs, kernel, None, *arguments)
    return cast("Tensor", found[which])


def _by_run(images: Tensor, runs: int) -> tuple[Tensor, ...]:
    return images.tensor_split(runs)


def _channels_last(kernels: Tensor) -> list[Tensor]:
    return [kernel.contiguous(memory_format=torch.channels_last) for kernel in kernels]


def _rows(images: Tensor, runs: int) -> Tensor:
    """Return the positions of each run's images as rows of channels, (R, B·height·width, C)."""
    return images.permute(0, 2, 3, 1).reshape(runs, -1, images.shape[1])


def _kernels(like: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return room for kernels of shape (R, O, C, height, width), channels innermost."""
    runs, outputs, channels, height, width = shape
    return like.new_empty(runs, outputs, height, width, channels).permute(0, 1, 4, 2, 3)


def _flat(kernels: Tensor) -> Tensor:
    """Return kernels in the order of patches, shape (R, O, kernel · C)."""
    return kernels.permute(0, 1, 3, 4, 2).flatten(2)


def _patches(inputs: Tensor, runs: int, g: Geometry) -> Tensor:
    """Return what each position of the output sees, shape (R, B·height'·width', kernel · C)."""
    (top, left) = g.padding
    padded = functional.pad(inputs, (left, left, top, top)).permute(0, 2, 3, 1).contiguous()
    images, channels = len(inputs), inputs.shape[1]
    by_image, by_row, by_column, _ = padded.stride()
    patches = padded.as_strided(
        (images, *_output_size(inputs, g), *g.kernel, channels),
        (
            by_image,
            by_row * g.stride[0],
            by_column * g.stride[1],
            by_row * g.dilation[0],
            by_column * g.dilation[1],
            1,
        ),
    )
    return patches.reshape(runs, -1, g.kernel[0] * g.kernel[1] * channels)


def _fold(patches: Tensor, inputs: Tensor, g: Geometry) -> Tensor:
    """Return the sum of patches where they lie in the inputs: the transpose of `_patches`."""
    images, channels, height, width = inputs.shape
    (top, left), size = g.padding, _output_size(inputs, g)
    parts = patches.view(images, *size, *g.kernel, channels)
    padded = patches.new_zeros(images, height + 2 * top, width + 2 * left, channels)
    for i in range(g.kernel[0]):
        for j in range(g.kernel[1]):
            rows = _places(i * g.dilation[0], g.stride[0], size[0])
            columns = _places(j * g.dilation[1], g.stride[1], size[1])
            padded[:, rows, columns] += parts[:, :, :, i, j]
    inner = padded[:, top : top + height, left : left + width]
    return inner.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def _places(first: int, stride: int, count: int) -> slice:
    return slice(first, first + stride * (count - 1) + 1, stride)


def _output_size(inputs: Tensor, g: Geometry) -> tuple[int, int]:
    sizes = [
        (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
        for size, kernel, stride, padding, dilation in zip(
            inputs.shape[2:], g.kernel, g.stride, g.padding, g.dilation, strict=True
        )
    ]
    return _pair(sizes)


def _pair(numbers: Any) -> tuple[int, int]:
    first, second = numbers
    return int(first), int(second)


LITTLE = 10**6
"""Multiplications of a run's convolution below which patches are faster, measured on a CPU."""

LITTLE_ON_A_GPU = 10**8
"""The same for a GPU, where a call for each run leaves it idle; not measured."""
