"""Convolutions in which every run has a kernel of its own, and their weight gradients.

R runs stand one after another in a batch of R·B images. Three operations are each other's
derivatives: from inputs and output gradients to R kernels (`weight_gradients`), from inputs and R
kernels to outputs (`convolve`), and from output gradients and R kernels to inputs (`transpose`).

Where a run has little to do, calling a library's convolution for each run costs more than the work;
there it is one product of batches of matrices over patches of the images. In several groups, as in
depthwise convolutions, the runs are more groups of one convolution.
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.matching.convolution_geometry import Geometry, backward, by_run, places
from leakbench.attacks.matching.grouped_convolutions import (
    grouped_convolve,
    grouped_transpose,
    grouped_weight_gradients,
)


def weight_gradients(inputs: Tensor, deltas: Tensor, runs: int, geometry: Geometry) -> Tensor:
    """Return each run's weight gradient, differentiable once by inputs and deltas.

    Args:
        inputs: of the layer, shape (R·B, C, height, width).
        deltas: gradient of the loss by its outputs, shape (R·B, O, height', width').

    Returns:
        Shape (R, O, C / groups, *kernel).
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
    if g.groups > 1:
        found = _kernels(inputs, (runs, outputs, channels // g.groups, *g.kernel))
        return found.copy_(grouped_weight_gradients(inputs, deltas, runs, g))
    if _as_patches(inputs, outputs, runs, g):
        kernels = _rows(deltas, runs).mT @ _patches(inputs, runs, g)
        return kernels.view(runs, outputs, *g.kernel, channels).permute(0, 1, 4, 2, 3)
    found = _kernels(inputs, (runs, outputs, channels, *g.kernel))
    of_runs = zip(found, by_run(inputs, runs), by_run(deltas, runs), strict=True)
    for kernel, x, delta in of_runs:
        kernel.copy_(backward(delta, x, kernel, g, 1))
    return found


@_weight_gradients.register_fake
def _(inputs: Tensor, deltas: Tensor, runs: int, geometry: list[int]) -> Tensor:
    g = Geometry.from_flat(geometry)
    return _kernels(inputs, (runs, deltas.shape[1], inputs.shape[1] // g.groups, *g.kernel))


@torch.library.custom_op(
    "leakbench::convolve",
    mutates_args=(),
    schema="(Tensor inputs, Tensor kernels, int[] geometry) -> Tensor",
)
def _convolve(inputs: Tensor, kernels: Tensor, geometry: list[int]) -> Tensor:
    g, runs = Geometry.from_flat(geometry), len(kernels)
    if g.groups > 1:
        return grouped_convolve(inputs, kernels, g)
    if _as_patches(inputs, kernels.shape[1], runs, g):
        rows = _patches(inputs, runs, g) @ _flat(kernels).mT
        height, width = g.output_size(inputs)
        return rows.view(len(inputs), height, width, -1).permute(0, 3, 1, 2)
    outputs = [
        functional.conv2d(x, kernel, None, g.stride, g.padding, g.dilation)
        for x, kernel in zip(by_run(inputs, runs), _channels_last(kernels), strict=True)
    ]
    return torch.cat(outputs).contiguous(memory_format=torch.channels_last)


@_convolve.register_fake
def _(inputs: Tensor, kernels: Tensor, geometry: list[int]) -> Tensor:
    size = Geometry.from_flat(geometry).output_size(inputs)
    rows = inputs.new_empty(len(inputs), *size, kernels.shape[1])
    return rows.permute(0, 3, 1, 2)


@torch.library.custom_op(
    "leakbench::transpose",
    mutates_args=(),
    schema="(Tensor deltas, Tensor kernels, Tensor inputs, int[] geometry) -> Tensor",
)
def _transpose(deltas: Tensor, kernels: Tensor, inputs: Tensor, geometry: list[int]) -> Tensor:
    g, runs = Geometry.from_flat(geometry), len(kernels)
    if g.groups > 1:
        return grouped_transpose(deltas, kernels, inputs, g)
    if _as_patches(inputs, kernels.shape[1], runs, g):
        return _fold(_rows(deltas, runs) @ _flat(kernels), inputs, g)
    parts = zip(by_run(deltas, runs), by_run(inputs, runs), _channels_last(kernels), strict=True)
    found = torch.cat([backward(d, x, kernel, g, 0) for d, x, kernel in parts])
    return found.contiguous(memory_format=torch.channels_last)


@_transpose.register_fake
def _(deltas: Tensor, _kernels: Tensor, inputs: Tensor, _geometry: list[int]) -> Tensor:
    images, channels, height, width = inputs.shape
    return deltas.new_empty(images, height, width, channels).permute(0, 3, 1, 2)


def _as_patches(inputs: Tensor, outputs: int, runs: int, g: Geometry) -> bool:
    """Whether a run has so little to do that calling a library for each costs more."""
    positions = math.prod(g.output_size(inputs)) * len(inputs) // runs
    products = positions * outputs * inputs.shape[1] * math.prod(g.kernel)
    if g.is_pointwise:
        return runs > 1  # its patches are the images as they are
    return runs > 1 and products < (LITTLE if inputs.device.type == "cpu" else LITTLE_ON_A_GPU)


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
    if g.is_pointwise:
        return _rows(inputs, runs)
    (top, left) = g.padding
    padded = functional.pad(inputs, (left, left, top, top)).permute(0, 2, 3, 1).contiguous()
    images, channels = len(inputs), inputs.shape[1]
    by_image, by_row, by_column, _ = padded.stride()
    patches = padded.as_strided(
        (images, *g.output_size(inputs), *g.kernel, channels),
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
    if g.is_pointwise:
        return patches.view(images, height, width, channels).permute(0, 3, 1, 2)
    (top, left), size = g.padding, g.output_size(inputs)
    parts = patches.view(images, *size, *g.kernel, channels)
    padded = patches.new_zeros(images, height + 2 * top, width + 2 * left, channels)
    for i in range(g.kernel[0]):
        for j in range(g.kernel[1]):
            rows = places(i * g.dilation[0], g.stride[0], size[0])
            columns = places(j * g.dilation[1], g.stride[1], size[1])
            padded[:, rows, columns] += parts[:, :, :, i, j]
    inner = padded[:, top : top + height, left : left + width]
    return inner.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


LITTLE = 10**6
"""Multiplications of a run's convolution below which patches are faster, measured on a CPU."""

LITTLE_ON_A_GPU = 10**8
"""The same for a GPU, where a call for each run leaves it idle; not measured."""
