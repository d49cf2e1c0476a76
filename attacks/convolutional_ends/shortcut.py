"""What a shortcut adds, from the gradients of the convolutions that it passes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from leakbench.attacks.convolutional_ends.convolution import Convolution
from leakbench.attacks.convolutional_ends.end import ConvolutionalEnd
from leakbench.attacks.linear_layers.demixing.recovered import NOISE_MARGIN


@dataclass(frozen=True)
class Added:
    """What a shortcut adds at every position of a batch.

    Attributes:
        values: shape (m, n).
        error: root mean square that the update's noise leaves in them, shape (n,).
    """

    values: Tensor
    error: Tensor


def shortcut_of(
    end: ConvolutionalEnd, update: Mapping[str, Tensor], inputs: Tensor, x: Tensor, noise: Tensor
) -> Added | None:
    """Return what the shortcut adds.

    With all a and x = ∂L / ∂z of the last convolution, x of the one before it follows by
    backpropagation: a shows where its ReLU is active. Its gradient is Σ x aᵀ, from which least
    squares gives the a that it saw, and so on to where the shortcut begins.

    Args:
        inputs: a of all positions of the batch, shape (n, d).
        x: of all positions, shape (m, n).
        noise: by which the update's may move entries of a, shape (n,).

    Returns:
        None where there are fewer equations than positions.
    """
    assert end.branch is not None
    layer, error = end.convolution, x.new_zeros(x.shape[1])
    for before in end.branch:
        x, sure = _backpropagated(layer, inputs, x, noise)
        gradient = before.weight_gradient(update)
        length = gradient.norm(dim=1)
        rows = sure.all(1) & before.known_rows & (length > 0)
        # Rounding is relative: all rows get the same.
        solved = _least_squares(x[rows] / length[rows, None], gradient[rows] / length[rows, None])
        if solved is None:
            return None
        inputs, error = solved
        noise = NOISE_MARGIN * error
        layer = before
    return Added(_by_place(layer, inputs)[:, :, _centre(layer)].mT, error)


def _least_squares(x: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return a of Σ x aᵀ, leaving out channels in which it does not hold, and their errors.

    Where a channel is so little active that rounding hides it, x is wrong there; one such entry of
    ten thousands spoils all a. No other channel is off by as much.

    Args:
        x: shape (channels, n).
        gradient: shape (channels, d).

    Returns:
        a, shape (n, d), and root mean squares of their errors, shape (n,); None where there are too
        few channels.
    """
    count = x.shape[1]
    if len(x) < count + SPARE:
        return None
    least = max(count + SPARE, int(MOST_RIGHT * len(x)))
    while True:
        inverse = torch.linalg.pinv(x)
        inputs = inverse @ gradient
        left = (gradient - x @ inputs).norm(dim=1)
        if len(x) <= least or left.max() <= OUTLYING * left.median():
            break
        # One by one: a wrong channel spoils what others leave.
        right = left < left.max()
        x, gradient = x[right], gradient[right]
    spare = (len(x) - count) * gradient.shape[1]
    error = left.norm() / spare**0.5 * inverse.norm(dim=1)
    return inputs, error


def _backpropagated(
    layer: Convolution, inputs: Tensor, x: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Return x before the ReLU whose output a convolution sees, and where it is sure.

    Args:
        inputs: what it sees, shape (n, d).
        x: its ∂L / ∂z, shape (m, n).
        noise: in what it sees, shape (n,).

    Returns:
        Shapes (channels, n), at the centres of what it sees.
    """
    places = _by_place(layer, inputs)
    centres = places[:, :, _centre(layer)]
    weight = layer.weight.reshape(len(layer.weight), *places.shape[1:])
    back = torch.zeros_like(centres.mT)
    for place in range(places.shape[2]):
        seen = places[:, :, place]
        somewhere = seen.norm(dim=1) > SEEN * centres.norm(dim=1).amax()
        nearest = torch.cdist(seen[somewhere], centres).argmin(1)
        back.index_add_(1, nearest, weight[:, :, place].mT @ x[:, somewhere])
    # ReLU returns nothing below 0: what is there is rounding.
    rounding = torch.maximum(centres.clamp_max(0).abs().amax(1), noise)[:, None]
    active = centres > ACTIVE * rounding
    sure = (centres <= rounding) | (centres > SURE * rounding)
    return back * active.mT, sure.mT


def _by_place(layer: Convolution, inputs: Tensor) -> Tensor:
    """Return what a kernel sees, place by place, shape (n, channels, places)."""
    height, width = layer.module.kernel_size
    return inputs.reshape(len(inputs), -1, height * width)


def _centre(layer: Convolution) -> int:
    height, width = layer.module.kernel_size
    return (height * width) // 2


SPARE = 10
"""Fewest equations beyond the number of positions; what they leave tells the update's noise."""

OUTLYING = 4.0
"""How many times as much as most channels leave one leaves that is wrong."""

MOST_RIGHT = 0.9
"""Part of the channels that are kept at least; where more are wrong, the error tells."""

SEEN = 1e-3
"""Length of what is seen, relative to the longest, below which it is the edge, or all inactive."""

ACTIVE = 3.0
"""How many times as large as rounding an active channel is."""

SURE = 10.0
"""From how many times the rounding on a channel is surely active."""
