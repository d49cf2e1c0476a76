"""A last convolution, an average over positions and one linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from leakbench.attacks.convolutional_ends.kinked import Kinked
from leakbench.attacks.demixable_ends.registry import DemixableEnd
from leakbench.attacks.linear_layers.head import Layer
from leakbench.federation.shared_model import SharedModel


@dataclass(frozen=True)
class ConvolutionalEnd(DemixableEnd):
    """h = mean over P positions of φ(W a_p + b), then logits W_o h + b_o.

    a_p is what the kernel sees at a position, W and b hold BatchNorm in evaluation mode. Weights
    are in double precision on the CPU.

    Attributes:
        names: of the convolution's weight and of the bias that b comes from, in an update.
        convolution: the module, for a_p of images.
        weight: W, shape (m, d) with d = input channels × kernel.
        bias: b, shape (m,).
        row_scale: factor of BatchNorm in each row of W, shape (m,); ones without it.
        activation: φ.
        output: the output layer.
        positions: P.
    """

    names: tuple[str, str]
    convolution: nn.Conv2d
    weight: Tensor
    bias: Tensor
    row_scale: Tensor
    activation: Kinked
    output: Layer
    positions: int

    @property
    def classes(self) -> int:
        """K."""
        return len(self.output.bias)

    def gradient(self, update: Mapping[str, Tensor]) -> Tensor:
        """Return Σ x_p [a_p, 1]ᵀ over individuals and positions, x = ∂L / ∂z, shape (m, d + 1).

        Rows without a factor, of which the update holds no weights' gradient, are zero.
        """
        weight, bias = (update[name].detach().cpu().double() for name in self.names)
        known = self.known_rows[:, None]
        rows = weight.flatten(1) / torch.where(known, self.row_scale[:, None], 1.0)
        return torch.where(known, torch.cat([rows, bias[:, None]], dim=1), 0.0)

    @property
    def known_rows(self) -> Tensor:
        """Channels whose gradient tells of a, shape (m,)."""
        return self.row_scale.abs() > LEAST_FACTOR * self.row_scale.abs().max()

    def z(self, inputs: Tensor) -> Tensor:
        """Return z of what the kernel sees, (n, d) → (m, n)."""
        return self.weight @ inputs.mT + self.bias[:, None]

    def pooled(self, z: Tensor) -> Tensor:
        """Return h of the positions of one individual after another, (m, n · P) → (n, m)."""
        maps = self.activation.value(z).reshape(len(z), -1, self.positions)
        pooled: Tensor = maps.mean(2).mT
        return pooled

    def probabilities(self, features: Tensor) -> Tensor:
        """Return class probabilities of h, (n, m) → (n, K)."""
        return self.output.forward(features).softmax(1)


def kernel_inputs(model: SharedModel, convolution: nn.Conv2d, images: Tensor) -> Tensor:
    """Return a_p of images, shape (n, P, d), in double precision on the CPU."""
    seen: list[Tensor] = []
    handle = convolution.register_forward_hook(lambda _module, inputs, _out: seen.append(inputs[0]))
    try:
        with torch.no_grad():
            model.features(images)
    finally:
        handle.remove()
    (inputs,) = seen
    columns = functional.unfold(
        inputs,
        convolution.kernel_size,
        convolution.dilation,
        _pair(convolution.padding),
        convolution.stride,
    )
    return columns.mT.cpu().double()


def _pair(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    assert not isinstance(padding, str)
    return padding


LEAST_FACTOR = 1e-6
"""Least factor of a channel, relative to the largest, that rounding leaves something of."""
