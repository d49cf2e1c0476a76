"""A classifier of linear layers: its weights, and the errors that its gradients are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from leakbench.attacks.demixable_ends.registry import (
    DemixableEnd,
    Lacking,
    end_of,
    register_end,
)
from leakbench.attacks.linear_layers.activations import Activation, Rectifier, activation_of
from leakbench.federation.loss import PLAIN, Loss
from leakbench.federation.shared_model import SharedModel


@dataclass(frozen=True)
class Layer:
    """z = W a + b and the activation after it, in double precision where the device has it.

    Attributes:
        names: names of W and b in an update.
        weight: W, shape (m, d).
        bias: b, shape (m,).
        activation: none after the output layer.
    """

    names: tuple[str, str]
    weight: Tensor
    bias: Tensor
    activation: Activation | None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return z of inputs (…, d), shape (…, m)."""
        return inputs @ self.weight.T + self.bias

    def extended(self) -> Tensor:
        """Return [W, b], shape (m, d + 1)."""
        return torch.cat([self.weight, self.bias[:, None]], dim=1)

    def gradient(self, update: Mapping[str, Tensor]) -> Tensor:
        """Return the gradient of [W, b], shape (m, d + 1), in double precision."""
        weight, bias = (update[name] for name in self.names)
        return torch.cat([weight, bias[:, None]], dim=1).to(self.weight.device).double()


@dataclass(frozen=True)
class Head(DemixableEnd):
    """f_c(h), or what follows one of its layers.

    The error of an individual is x = ∂ℓ / ∂z of its loss ℓ by z of the first layer, so that the
    gradient of that layer's [W, b] is the mean of x [h, 1]ᵀ.

    Attributes:
        layers: in the order of the forward pass; the last is the output layer.
        loss: of the logits.
    """

    layers: tuple[Layer, ...]
    loss: Loss = PLAIN

    @property
    def first(self) -> Layer:
        """The layer that takes h."""
        return self.layers[0]

    @property
    def output(self) -> Layer:
        """The layer that gives the logits."""
        return self.layers[-1]

    @property
    def classes(self) -> int:
        """K."""
        return self.loss.classes(len(self.output.bias))

    @cached_property
    def targets(self) -> Tensor:
        """The target of each label, one-hot for a plain cross-entropy, shape (K, K)."""
        return self.loss.targets(self.classes).to(self.first.weight)

    @property
    def error_dimensions(self) -> int:
        """How many dimensions the errors at the logits have."""
        return len(self.output.bias) - self.loss.error_dimensions_lost

    def after(self, layers: int) -> Head:
        """Return what follows the first so many layers."""
        return Head(self.layers[layers:], self.loss)

    @property
    def has_kinks(self) -> bool:
        """Whether there are hidden layers, and all of them have a rectifier."""
        hidden = self.layers[:-1]
        return bool(hidden) and all(isinstance(layer.activation, Rectifier) for layer in hidden)

    def inputs_after(self, features: Tensor, layers: int) -> Tensor:
        """Return the inputs (n, d') of the layer after so many layers, for features (n, d)."""
        for layer in self.layers[:layers]:
            assert layer.activation is not None
            features = layer.activation.value(layer.forward(features))
        return features

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return z of the first layer and class probabilities for features (n, d).

        Returns:
            z of the first layer, shape (n, m), and class probabilities, shape (n, K).
        """
        z = self.first.forward(features)
        return z, self.loss.probabilities(self._forward(z, None)[-1])

    def residuals(self, z: Tensor, targets: Tensor) -> Tensor:
        """Return the errors at the logits where the first layer gives z (n, m)."""
        return self.loss.errors(self._forward(z, None)[-1], targets)

    def errors(self, z: Tensor, targets: Tensor, sharpness: Tensor | None = None) -> Tensor:
        """Return x where the first layer gives z, shape (…, m).

        Args:
            z: shape (…, m).
            targets: of the labels, rows of `targets`, shape (…, K).
            sharpness: of softened kinks, see `Activation`; shape (…, 1).
        """
        every = self._forward(z, sharpness)
        x = self.loss.errors(every[-1], targets)
        for layer, following, at in reversed(self._hidden(every)):
            x = (x @ following.weight) * layer.derivative(at, sharpness)
        return x

    def linearised(
        self, z: Tensor, tangents: Tensor, targets: Tensor, sharpness: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return x and its derivatives by z along some directions.

        Args:
            z: shape (n, m).
            tangents: the directions, shape (m, q).
            targets, sharpness: as for `errors`.

        Returns:
            Shapes (n, m) and (n, m, q).
        """
        every, moving = self._forward(z, sharpness), [tangents]
        hidden = self._hidden(every)
        for activation, following, at in hidden:
            slope = activation.value_derivative(at, sharpness)
            moving.append(following.weight @ (slope[..., None] * moving[-1]))
        x = self.loss.errors(every[-1], targets)
        dx = self.loss.errors_derivative(every[-1], moving[-1], targets)
        for (activation, following, at), dz in zip(hidden[::-1], moving[-2::-1], strict=True):
            back, derivative = x @ following.weight, activation.derivative(at, sharpness)
            second = activation.second_derivative(at, sharpness)
            dx = (second * back)[..., None] * dz + derivative[..., None] * (following.weight.T @ dx)
            x = back * derivative
        return x, dx

    def _forward(self, z: Tensor, sharpness: Tensor | None) -> list[Tensor]:
        """Return z of every layer."""
        every = [z]
        for layer, following in zip(self.layers, self.layers[1:], strict=False):
            assert layer.activation is not None
            every.append(following.forward(layer.activation.value(every[-1], sharpness)))
        return every

    def _hidden(self, every: Sequence[Tensor]) -> list[tuple[Activation, Layer, Tensor]]:
        """Return each hidden layer's activation, the layer that follows, and z."""
        pairs = zip(self.layers, self.layers[1:], every, strict=False)
        return [(at.activation, following, z) for at, following, z in pairs if at.activation]


LINEAR_LAYERS = "linear layers"
"""The kind of end."""


@register_end(LINEAR_LAYERS)
def linear_layers(
    model: SharedModel,
    examples: Tensor,  # noqa: ARG001
) -> Head | Lacking:
    """Return the model's classifier, if it is linear layers with activations between them."""
    modules = [module for module in model.classifier.modules() if not list(module.children())]
    linear, between = modules[::2], modules[1::2]
    activations = [activation_of(module) for module in between]
    alternating = (
        len(linear) == len(between) + 1
        and all(isinstance(module, nn.Linear) and module.bias is not None for module in linear)
        and all(activations)
    )
    if not alternating:
        kinds = ", ".join(type(module).__name__ for module in modules)
        return Lacking(
            "a classifier of linear layers with biases, and activations between them",
            f"this one has {kinds}",
            "split the model elsewhere",
        )
    of_names = {id(parameter): name for name, parameter in model.named_parameters()}
    layers = []
    for module, activation in zip(linear, [*activations, None], strict=True):
        assert isinstance(module, nn.Linear)
        if not {id(module.weight), id(module.bias)} <= set(of_names):
            return Lacking(
                "the gradients of all of the classifier's layers",
                "some of them are frozen",
                "split the model elsewhere",
            )
        # Apple's GPUs have no double precision.
        device = "cpu" if module.weight.device.type == "mps" else module.weight.device
        weight, bias = (p.detach().to(device).double() for p in (module.weight, module.bias))
        names = of_names[id(module.weight)], of_names[id(module.bias)]
        layers.append(Layer(names, weight, bias, activation))
    head = Head(tuple(layers), model.loss)
    if not _computes_nothing_else(head, model):
        return Lacking(
            "a classifier of nothing but linear layers and activations, one after the other",
            "this one computes something else with its layers",
            "split the model elsewhere",
        )
    return head


def head_of(model: SharedModel, attack: str) -> Head:
    """Return the classifier of a shared model.

    Raises:
        UsageError: it is anything but linear layers, with biases and activations between them.
    """
    # Inputs do not matter to it.
    return end_of(model, torch.empty(0), LINEAR_LAYERS, Head, attack)


def _computes_nothing_else(head: Head, model: SharedModel) -> bool:
    """Whether a classifier computes its layers in their order, and nothing else."""
    layer = next(m for m in model.classifier.modules() if isinstance(m, nn.Linear))
    drawn = torch.randn(4, layer.in_features, generator=torch.Generator().manual_seed(0))
    features = drawn.to(layer.weight.device)
    with torch.no_grad():
        logits = model.classifier(features.to(layer.weight.dtype)).double()
    expected = head.forward(features.to(head.first.weight))[1]
    found = head.loss.probabilities(logits.to(expected.device))
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4)
