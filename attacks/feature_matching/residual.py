"""How the dummies' g_c differs from the observed one, with Gauss's and Newton's equations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from leakbench.attacks.feature_matching.coordinates import Coordinates
from leakbench.attacks.linear_layers.demixing.gradient_space import TINY
from leakbench.attacks.linear_layers.head import Head


@dataclass(frozen=True)
class Dummies:
    """The dummies of R runs, B each.

    Attributes:
        unknowns: u, coordinates of their features, shape (R, B, q).
        logits: of their labels, which a softmax makes probabilities; shape (R, B, K).
    """

    unknowns: Tensor
    logits: Tensor

    def __getitem__(self, runs: Tensor) -> Dummies:
        return Dummies(self.unknowns[runs], self.logits[runs])

    @property
    def labels(self) -> Tensor:
        """The likeliest labels, shape (R, B)."""
        return self.logits.argmax(2)


@dataclass(frozen=True)
class LayerTerms:
    """What one layer's gradient is made of: x cᵀ, summed over the dummies.

    Attributes:
        errors: x = ∂ℓ / ∂z, shape (R, B, m).
        inputs: c, the layer's inputs and 1, shape (R, B, n).
        error_derivatives, input_derivatives: by the w unknowns of each of the N dummies that move,
            shapes (R, N, m, w) and (R, N, n, w).
    """

    errors: Tensor
    inputs: Tensor
    error_derivatives: Tensor
    input_derivatives: Tensor


@dataclass(frozen=True)
class Residual:
    """g̃_c − g_c of one victim batch, relative to g_c layer by layer.

    The first layer's is taken in the coordinates of `space`: outside of them it is constant.

    Attributes:
        head: f_c.
        space: coordinates of the features.
        targets: g_c: each layer's gradient, summed over individuals, shape (m, n) each.
        joint: whether labels are optimised too.
    """

    head: Head
    space: Coordinates
    targets: Sequence[Tensor]
    joint: bool

    @property
    def unknowns(self) -> int:
        """w: how many numbers are unknown of each dummy, of its feature and of its label."""
        return self.space.unknowns + (self.head.classes if self.joint else 0)

    def cost(self, dummies: Dummies, sharpness: Tensor | None) -> Tensor:
        """Return the sum over layers of ‖g̃ − g‖² / ‖g‖², shape (R,).

        Args:
            sharpness: of softened kinks, shape (1, 1, 1); None for the layers themselves.
        """
        z, inputs = self._forward(dummies, sharpness)
        errors = self._backward(dummies, z, sharpness)
        cost = errors[0].new_zeros(len(errors[0]))
        for target, x, c in zip(self.targets, errors, inputs, strict=True):
            cost = cost + (x.mT @ c - target).square().sum((1, 2)) / _size(target)
        return cost

    def equations(
        self, dummies: Dummies, moving: Tensor, sharpness: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the cost, and JᵀJ and Jᵀr of the residual r and its derivatives J.

        J is never formed: r is a sum of products x cᵀ, and so inner products of its derivatives are
        made of those of x, c and theirs.

        Args:
            moving: which dummies move, shape (N,).
            sharpness: as for `cost`.

        Returns:
            Shapes (R,), (R, N w, N w) and (R, N w), w = q unknowns, and K more with joint labels.
        """
        found = []
        layers = self._linearised(dummies, moving, sharpness)
        for target, layer in zip(self.targets, layers, strict=True):
            size = _size(target)
            residual = layer.errors.mT @ layer.inputs - target
            x, c = layer.errors[:, moving], layer.inputs[:, moving]
            dx, dc = layer.error_derivatives, layer.input_derivatives
            by_errors = (c @ residual.mT)[:, :, None] @ dx
            by_inputs = (x @ residual)[:, :, None] @ dc
            found.append(
                (
                    residual.square().sum((1, 2)) / size,
                    _inner_products(x, c, dx, dc) / size,
                    (by_errors + by_inputs).flatten(1) / size,
                )
            )
        cost, normal, downhill = (torch.stack(parts).sum(0) for parts in zip(*found, strict=True))
        return cost, normal, downhill

    def gradients(self, dummies: Dummies, divided_by: float) -> list[Tensor]:
        """Return g̃_c: each layer's gradient of [W, b] and the loss, shape (R, m, n).

        Args:
            divided_by: by what the sum over individuals is divided: B for a mean.
        """
        z, inputs = self._forward(dummies, None)
        inputs[0] = functional.pad(self.space.features(dummies.unknowns), (0, 1), value=1.0)
        errors = self._backward(dummies, z, None)
        return [x.mT @ c / divided_by for x, c in zip(errors, inputs, strict=True)]

    def _forward(
        self, dummies: Dummies, sharpness: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return z and [inputs, 1] of each layer, the first in the coordinates of the space."""
        features = self.space.features(dummies.unknowns)
        extended = functional.pad(features, (0, 1), value=1.0)
        z, inputs = [self.head.first.forward(features)], [extended @ self._columns]
        for layer, following in zip(self.head.layers, self.head.layers[1:], strict=False):
            assert layer.activation is not None
            a = layer.activation.value(z[-1], sharpness)
            z.append(following.forward(a))
            inputs.append(functional.pad(a, (0, 1), value=1.0))
        return z, inputs

    def _backward(
        self, dummies: Dummies, z: Sequence[Tensor], sharpness: Tensor | None
    ) -> list[Tensor]:
        """Return x of each layer."""
        errors = [self.head.loss.errors(z[-1], self._targets(dummies.logits))]
        for number in reversed(range(len(z) - 1)):
            layer, following = self.head.layers[number : number + 2]
            assert layer.activation is not None
            back = errors[0] @ following.weight
            errors.insert(0, back * layer.activation.derivative(z[number], sharpness))
        return errors

    def _targets(self, label_logits: Tensor) -> Tensor:
        """Return the targets of soft labels, shape (…, K)."""
        labels = label_logits.softmax(-1)
        if self.head.loss.is_plain:
            return labels
        targets: Tensor = labels @ self.head.targets
        return targets

    @property
    def _columns(self) -> Tensor:
        """The basis of the space, columns scaled."""
        return self.space.basis * self.space.scale

    def _linearised(
        self, dummies: Dummies, moving: Tensor, sharpness: Tensor | None
    ) -> list[LayerTerms]:
        z, inputs = self._forward(dummies, sharpness)
        errors = self._backward(dummies, z, sharpness)
        at = [each[:, moving] for each in z]
        dz, dc = self._forward_derivatives(at, sharpness)
        labels, at_errors = dummies.logits[:, moving], [x[:, moving] for x in errors]
        dx = self._backward_derivatives(labels, at, at_errors, dz, sharpness)
        return [LayerTerms(*each) for each in zip(errors, inputs, dx, dc, strict=True)]

    def _forward_derivatives(
        self, z: Sequence[Tensor], sharpness: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Return derivatives of z and [inputs, 1] of each layer by the unknowns."""
        labels = self.head.classes if self.joint else 0
        directions = functional.pad(self.space.directions, (0, labels))
        first = self._columns[:-1].mT @ directions
        dz = [(self.head.first.weight @ directions).expand(*z[0].shape[:2], -1, -1)]
        dc = [first.expand(*z[0].shape[:2], -1, -1)]
        for number, following in enumerate(self.head.layers[1:]):
            activation = self.head.layers[number].activation
            assert activation is not None
            da = activation.value_derivative(z[number], sharpness)[..., None] * dz[-1]
            dz.append(following.weight @ da)
            dc.append(functional.pad(da, (0, 0, 0, 1)))
        return dz, dc

    def _backward_derivatives(
        self,
        labels: Tensor,
        z: Sequence[Tensor],
        errors: Sequence[Tensor],
        dz: Sequence[Tensor],
        sharpness: Tensor | None,
    ) -> list[Tensor]:
        """Return derivatives of x of each layer by the unknowns, label logits being `labels`."""
        dx = [self.head.loss.errors_derivative(z[-1], dz[-1], self._targets(labels))]
        if self.joint:
            # x of the output layer is p − softmax(logits), and the logits are the last unknowns.
            classes = torch.eye(self.head.classes).to(labels)
            of_labels = _softmax_derivative(labels, classes.expand(*labels.shape, -1))
            dx = [dx[0] - functional.pad(of_labels, (self.space.unknowns, 0))]
        for number in reversed(range(len(z) - 1)):
            layer, following = self.head.layers[number : number + 2]
            assert layer.activation is not None
            back = errors[number + 1] @ following.weight
            slope = layer.activation.derivative(z[number], sharpness)
            second = layer.activation.second_derivative(z[number], sharpness)
            derivative = following.weight.mT @ dx[0]
            dx.insert(0, (second * back)[..., None] * dz[number] + slope[..., None] * derivative)
        return dx


def _softmax_derivative(logits: Tensor, derivatives: Tensor) -> Tensor:
    """Return derivatives (…, K, w) of the softmax of logits (…, K), whose own are given."""
    p = logits.softmax(-1)
    derivative: Tensor = p[..., None] * (derivatives - p[..., None, :] @ derivatives)
    return derivative


def _inner_products(x: Tensor, c: Tensor, dx: Tensor, dc: Tensor) -> Tensor:
    """Return ⟨dx_j c_jᵀ + x_j dc_jᵀ, dx_k c_kᵀ + x_k dc_kᵀ⟩ for all unknowns of dummies j and k.

    Args:
        x, c: shapes (R, N, m) and (R, N, n).
        dx, dc: shapes (R, N, m, w) and (R, N, n, w).

    Returns:
        Shape (R, N w, N w).
    """
    runs, moving, _, unknowns = dx.shape
    shape = (runs, moving, unknowns, moving, unknowns)
    all_dx, all_dc = (each.transpose(1, 2).flatten(2) for each in (dx, dc))
    products = (all_dx.mT @ all_dx).view(shape) * (c @ c.mT)[:, :, None, :, None]
    products += (all_dc.mT @ all_dc).view(shape) * (x @ x.mT)[:, :, None, :, None]
    # x_k · dx_j, times c_j · dc_k; and the other way round.
    of_x = (x @ all_dx).view(runs, moving, moving, unknowns).permute(0, 2, 3, 1)
    of_c = (c @ all_dc).view(runs, moving, moving, unknowns)
    crossed = of_x[..., None] * of_c[:, :, None]
    products += crossed
    products += crossed.permute(0, 3, 4, 1, 2)
    return products.view(runs, moving * unknowns, moving * unknowns)


def _size(target: Tensor) -> float:
    """Return ‖g‖² of a layer's gradient."""
    return max(float(target.square().sum()), TINY)
