"""A convolution as a linear layer that is applied at every position."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from leakbench.attacks.demixable_ends.calls import double
from leakbench.attacks.linear_layers.demixing.observed_gradient import ObservedGradient


@dataclass(frozen=True)
class Convolution:
    """z = W a + b of what the kernel sees at a position, a; BatchNorm in evaluation mode in W, b.

    Weights are in double precision on the CPU.

    Attributes:
        module: the convolution.
        weight_name: of its weight in an update.
        bias_name: of the bias that b comes from; empty where no update has it.
        weight: W, shape (m, d) with d = input channels × kernel.
        bias: b, shape (m,).
        row_scale: factor of BatchNorm in each row of W, shape (m,); ones without it.
        norm: BatchNorm after the convolution, if any.
        scale_name: of its factor γ in an update; empty where no update has it.
    """

    module: nn.Conv2d
    weight_name: str
    bias_name: str
    weight: Tensor
    bias: Tensor
    row_scale: Tensor
    norm: nn.BatchNorm2d | None = None
    scale_name: str = ""

    @property
    def known_rows(self) -> Tensor:
        """Channels whose gradient tells of a, shape (m,)."""
        return self.row_scale.abs() > LEAST_FACTOR * self.row_scale.abs().max()

    def z(self, inputs: Tensor) -> Tensor:
        """Return z of what the kernel sees, (n, d) → (m, n)."""
        return self.weight @ inputs.mT + self.bias[:, None]

    def inputs(self, maps: Tensor) -> Tensor:
        """Return what the kernel sees of maps (n, channels, height, width), shape (n, P, d)."""
        module = self.module
        return functional.unfold(
            maps, module.kernel_size, module.dilation, _pair(module.padding), module.stride
        ).mT

    def weight_gradient(self, update: Mapping[str, Tensor]) -> Tensor:
        """Return Σ x_p a_pᵀ over individuals and positions, x = ∂L / ∂z, shape (m, d).

        Rows without a factor, of which the update holds no gradient, are zero.
        """
        known = self.known_rows[:, None]
        rows = double(update[self.weight_name]).flatten(1)
        return torch.where(known, rows / torch.where(known, self.row_scale[:, None], 1.0), 0.0)

    def gradient(self, update: Mapping[str, Tensor]) -> Tensor:
        """Return Σ x_p [a_p, 1]ᵀ over individuals and positions, shape (m, d + 1)."""
        bias = torch.where(self.known_rows, double(update[self.bias_name]), 0.0)
        return torch.cat([self.weight_gradient(update), bias[:, None]], dim=1)

    def precision(self, update: Mapping[str, Tensor]) -> float:
        """Return the unit of the last place of its numbers in an update."""
        names = [name for name in (self.weight_name, self.bias_name) if name]
        return max(torch.finfo(update[name].dtype).eps for name in names)


def convolution_of(
    module: nn.Conv2d, norm: nn.BatchNorm2d | None, names: Mapping[int, str]
) -> Convolution | None:
    """Return a convolution and the BatchNorm after it; None if it is of another form.

    Args:
        names: of the parameters that clients send, by id.
    """
    plain = module.groups == 1 and module.padding_mode == "zeros"
    if not plain or isinstance(module.padding, str):
        return None
    weight = double(module.weight).flatten(1)
    bias = weight.new_zeros(len(weight)) if module.bias is None else double(module.bias)
    of_bias, factor = module.bias, torch.ones_like(bias)
    if norm is not None:
        mean, variance = norm.running_mean, norm.running_var
        # Without running statistics it normalises by the batch, in whichever mode.
        if mean is None or variance is None or not norm.affine or norm.training:
            return None
        factor = double(norm.weight) / (double(variance) + norm.eps).sqrt()
        bias = double(norm.bias) + factor * (bias - double(mean))
        of_bias = norm.bias
    return Convolution(
        module=module,
        weight_name=names.get(id(module.weight), ""),
        bias_name="" if of_bias is None else names.get(id(of_bias), ""),
        weight=weight * factor[:, None],
        bias=bias,
        row_scale=factor,
        norm=norm,
        scale_name="" if norm is None else names.get(id(norm.weight), ""),
    )


def sent_gradient(convolution: Convolution, update: Mapping[str, Tensor]) -> ObservedGradient:
    """Return Σ x_p [a_p, 1]ᵀ as far as an update tells it."""
    gradient = convolution.gradient(update)
    columns = torch.ones(gradient.shape[1] - 1, dtype=torch.bool)
    return ObservedGradient(gradient, convolution.known_rows, columns)


def normalised_by(convolution: Convolution, deviations: Tensor) -> Convolution:
    """Return a convolution whose BatchNorm takes away a batch's mean and divides by deviations.

    It takes what the kernel sees, less the mean of that over the batch.

    Args:
        convolution: with BatchNorm.
        deviations: σ, shape (m,).
    """
    norm = convolution.norm
    assert norm is not None
    factor = double(norm.weight) / deviations
    raw = double(convolution.module.weight).flatten(1)
    return replace(
        convolution, weight=raw * factor[:, None], bias=double(norm.bias), row_scale=factor
    )


def _pair(padding: str | tuple[int, ...]) -> tuple[int, ...]:
    assert not isinstance(padding, str)
    return padding


LEAST_FACTOR = 1e-6
"""Least factor of a channel, relative to the largest, that rounding leaves something of."""
