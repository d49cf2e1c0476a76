"""A last convolution, an average over positions and one linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakbench.attacks.convolutional_ends.convolution import Convolution
from leakbench.attacks.convolutional_ends.kinked import Kinked
from leakbench.attacks.demixable_ends.calls import inputs_of
from leakbench.attacks.demixable_ends.registry import DemixableEnd
from leakbench.attacks.linear_layers.head import Layer
from leakbench.federation.batch_norm import in_mode
from leakbench.federation.shared_model import SharedModel


@dataclass(frozen=True)
class ConvolutionalEnd(DemixableEnd):
    """h = mean over P positions of φ(W a_p + b + s_p), then logits W_o h + b_o.

    a_p is what the kernel sees at a position; s_p is added by a shortcut, if there is one.

    Attributes:
        convolution: W and b.
        module: of φ.
        activation: φ.
        output: the output layer.
        map_shape: height and width of the convolution's input.
        positions: P.
        branch: where there is a shortcut, the convolutions between its beginning and this one, the
            last first, each with ReLU behind it; none where s_p is the centre of a_p. None without
            a shortcut.
    """

    convolution: Convolution
    module: nn.Module
    activation: Kinked
    output: Layer
    map_shape: tuple[int, int]
    positions: int
    branch: tuple[Convolution, ...] | None = None

    @property
    def classes(self) -> int:
        """K."""
        return len(self.output.bias)

    @property
    def has_shortcut(self) -> bool:
        """Whether z is more than a function of a."""
        return self.branch is not None

    @property
    def largest_batch(self) -> int:
        """Individuals whose positions may be independent, by the rank of the gradient."""
        channels, inputs = self.convolution.weight.shape
        return min(inputs + 1, channels) // self.positions

    def preactivations(
        self, model: SharedModel, images: Tensor, together: int | None = None
    ) -> Tensor:
        """Return W a + b + s of images, one position after another, shape (m, n · P).

        Args:
            together: images of a batch by which BatchNorm normalises; what does not fill one is
                left out. None for running statistics.
        """
        if together is None:
            taken = inputs_of(model, self.module, images)
        else:
            place = next(name for name, each in model.named_modules() if each is self.module)
            by_batch = in_mode(model, "train")
            together = min(together, len(images))
            whole = images[: len(images) // together * together]
            taken = inputs_of(by_batch, by_batch.get_submodule(place), whole, together)
        return taken.flatten(2).transpose(0, 1).flatten(1)

    def pooled(self, z: Tensor) -> Tensor:
        """Return h of the positions of one individual after another, (m, n · P) → (n, m)."""
        maps = self.activation.value(z).reshape(len(z), -1, self.positions)
        pooled: Tensor = maps.mean(2).mT
        return pooled

    def probabilities(self, features: Tensor) -> Tensor:
        """Return class probabilities of h, (n, m) → (n, K)."""
        return self.output.forward(features).softmax(1)

    def expected_gradient(self, z: Tensor, inputs: Tensor, labels: Tensor) -> Tensor:
        """Return the gradient of [W, b] that a batch has, shape (m, d + 1).

        Args:
            z: W a + b + s, shape (m, n · P).
            inputs: a, shape (n · P, d).
            labels: shape (n,).
        """
        errors = self.probabilities(self.pooled(z)) - torch.eye(self.classes).double()[labels]
        back = (errors @ self.output.weight / len(labels) / self.positions).mT
        x = back.repeat_interleave(self.positions, 1)
        x = x * self.activation.derivative(self.activation.active(z))
        return torch.cat([x @ inputs, x.sum(1, keepdim=True)], dim=1)

    def gradient(self, update: Mapping[str, Tensor]) -> Tensor:
        """Return Σ x_p [a_p, 1]ᵀ of an update, shape (m, d + 1)."""
        return self.convolution.gradient(update)

    def known_rows_of(self, gradient: Tensor) -> Tensor:
        """Return a gradient (m, d + 1) with zeros where updates do not tell it."""
        return torch.where(self.convolution.known_rows[:, None], gradient, 0.0)
