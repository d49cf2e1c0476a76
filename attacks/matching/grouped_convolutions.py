"""Convolutions in groups, depthwise ones above all, in which every run has a kernel of its own.

Where a run has little to do, the runs are more groups: R·B images of C channels become B images of
R·C, and the convolutions of all runs one call. Weight gradients of depthwise convolutions with few
positions, for which libraries have no fast way, are sums of products of shifted images.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.matching.convolution_geometry import Geometry, backward, by_run, places


def grouped_weight_gradients(inputs: Tensor, deltas: Tensor, runs: int, g: Geometry) -> Tensor:
    """Return each run's weight gradient, shape (R, O, C / groups, *kernel).

    Args:
        inputs: shape (R·B, C, height, width).
        deltas: gradient of the loss by the outputs, shape (R·B, O, height', width').
    """
    outputs, channels = deltas.shape[1], inputs.shape[1]
    if outputs == channels == g.groups and math.prod(g.output_size(inputs)) < math.prod(g.kernel):
        return _by_positions(inputs, deltas, runs, g)
    shape = (outputs, channels // g.groups, *g.kernel)
    if _as_groups(deltas, runs):
        kernels = inputs.new_empty(runs * outputs, *shape[1:])
        beside, of_inputs = _beside(deltas, runs), _beside(inputs, runs)
        return backward(beside, of_inputs, kernels, g, 1, runs * g.groups).view(runs, *shape)
    kernel = inputs.new_empty(shape)
    parts = zip(by_run(deltas, runs), by_run(inputs, runs), strict=True)
    return torch.stack([backward(delta, x, kernel, g, 1, g.groups) for delta, x in parts])


def grouped_convolve(inputs: Tensor, kernels: Tensor, g: Geometry) -> Tensor:
    """Return outputs, shape (R·B, O, height', width'), channels innermost.

    Args:
        inputs: shape (R·B, C, height, width).
        kernels: shape (R, O, C / groups, *kernel).
    """
    runs, outputs = kernels.shape[:2]

    def convolved(images: Tensor, kernel: Tensor, groups: int) -> Tensor:
        arguments = (None, g.stride, g.padding, g.dilation, groups)
        return functional.conv2d(images, kernel, *arguments)

    positions = len(inputs) // runs * outputs * math.prod(g.output_size(inputs))
    if runs > 1 and positions < _little(inputs):
        found = convolved(_beside(inputs, runs), kernels.flatten(0, 1), runs * g.groups)
        return _in_turn(found, runs)
    parts = zip(by_run(inputs, runs), kernels, strict=True)
    return _innermost(torch.cat([convolved(x, kernel, g.groups) for x, kernel in parts]))


def grouped_transpose(deltas: Tensor, kernels: Tensor, inputs: Tensor, g: Geometry) -> Tensor:
    """Return the gradient by the inputs, shape (R·B, C, height, width), channels innermost.

    Args:
        deltas: gradient by the outputs, shape (R·B, O, height', width').
        kernels: shape (R, O, C / groups, *kernel).
        inputs: of which only the shape counts.
    """
    runs = len(kernels)
    if _as_groups(deltas, runs):
        images, channels, *size = inputs.shape
        like = inputs.new_empty(images // runs, *size, runs * channels).permute(0, 3, 1, 2)
        of_runs = kernels.flatten(0, 1)
        found = backward(_beside(deltas, runs), like, of_runs, g, 0, runs * g.groups)
        return _in_turn(found, runs)
    parts = zip(by_run(deltas, runs), by_run(inputs, runs), kernels, strict=True)
    return _innermost(torch.cat([backward(d, x, k, g, 0, g.groups) for d, x, k in parts]))


def _by_positions(inputs: Tensor, deltas: Tensor, runs: int, g: Geometry) -> Tensor:
    """Return weight gradients of a depthwise convolution, position by position of the outputs."""
    (top, left), (height, width) = g.padding, g.output_size(inputs)
    padded = functional.pad(inputs, (left, left, top, top)).permute(0, 2, 3, 1)
    found = inputs.new_zeros(runs, *g.kernel, inputs.shape[1])
    for i in range(height):
        rows = places(i * g.stride[0], g.dilation[0], g.kernel[0])
        for j in range(width):
            columns = places(j * g.stride[1], g.dilation[1], g.kernel[1])
            seen = padded[:, rows, columns] * deltas[:, None, None, :, i, j]
            found += seen.view(runs, -1, *seen.shape[1:]).sum(1)
    return found.permute(0, 3, 1, 2)[:, :, None]


def _as_groups(deltas: Tensor, runs: int) -> bool:
    """Whether a run has so little to do that calling a library for each costs more."""
    return runs > 1 and deltas.numel() // runs < _little(deltas)


def _little(images: Tensor) -> int:
    return LITTLE if images.device.type == "cpu" else LITTLE_ON_A_GPU


def _beside(images: Tensor, runs: int) -> Tensor:
    """Return images (R·B, C, height, width) as B images of R·C channels, channels innermost."""
    _, channels, height, width = images.shape
    by_run = images.permute(0, 2, 3, 1).reshape(runs, -1, height, width, channels)
    return by_run.permute(1, 2, 3, 0, 4).flatten(3).permute(0, 3, 1, 2)


def _in_turn(images: Tensor, runs: int) -> Tensor:
    """Return images of R·C channels as R·B of C, channels innermost: the inverse of `_beside`."""
    size, channels, height, width = images.shape
    by_run = images.permute(0, 2, 3, 1).reshape(size, height, width, runs, channels // runs)
    return _innermost(by_run.permute(3, 0, 4, 1, 2).flatten(0, 1))


def _innermost(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


LITTLE = 10**5
"""Numbers in a run's outputs below which runs as groups are faster, measured on a CPU."""

LITTLE_ON_A_GPU = 10**7
"""The same for a GPU, where a call for each run leaves it idle; not measured."""
