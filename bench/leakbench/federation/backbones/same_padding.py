"""Convolutions that pad as TensorFlow's `same`, for an input whose size is known."""

from __future__ import annotations

from torch import nn


class SameConvolutions:
    """Makes a network's convolutions in order, and keeps the size of the maps between them.

    The output has ⌈size / stride⌉ pixels. Where the padding that this takes is odd, the larger half
    is below and on the right, by a layer of its own: so every convolution is a plain one.

    Args:
        height, width: of the network's input.
    """

    def __init__(self, height: int, width: int) -> None:
        self._size = height, width

    def layers(
        self, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1
    ) -> dict[str, nn.Module]:
        """Return a convolution without bias under `name`, and a layer that pads if it needs one."""
        sides = [_padding(each, kernel, stride) for each in self._size]
        self._size = -(-self._size[0] // stride), -(-self._size[1] // stride)
        (above, below), (left, right) = sides
        symmetric = above == below and left == right
        layers: dict[str, nn.Module] = {}
        if not symmetric:
            layers[f"{name}_padding"] = nn.ZeroPad2d((left, right, above, below))
        layers[name] = nn.Conv2d(
            inputs,
            outputs,
            kernel,
            stride,
            (above, left) if symmetric else 0,
            groups=groups,
            bias=False,
        )
        return layers


def _padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the pixels to pad before and after."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
