"""The last block of a transformer that classifies by one token: an MLP, LayerNorm, linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from leakbench.attacks.demixable_ends.calls import double, inputs_of
from leakbench.attacks.demixable_ends.registry import DemixableEnd
from leakbench.attacks.linear_layers.activations import Smooth
from leakbench.attacks.linear_layers.head import Layer
from leakbench.federation.shared_model import SharedModel


@dataclass(frozen=True)
class Normalisation:
    """LayerNorm, in double precision.

    Attributes:
        weight, bias: shape (d,).
        epsilon: added to the variance.
    """

    weight: Tensor
    bias: Tensor
    epsilon: float

    def forward(self, inputs: Tensor) -> Tensor:
        """Return normalised inputs, shape (…, d)."""
        return self.weight * self._standardised(inputs)[0] + self.bias

    def backward(self, inputs: Tensor, errors: Tensor) -> Tensor:
        """Return ∂ℓ / ∂inputs for ∂ℓ / ∂outputs, shape (…, d); both broadcast."""
        standardised, deviation = self._standardised(inputs)
        scaled = errors * self.weight
        along = (scaled * standardised).mean(-1, keepdim=True)
        centred = scaled - scaled.mean(-1, keepdim=True)
        return (centred - standardised * along) / deviation

    def _standardised(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        centred = inputs - inputs.mean(-1, keepdim=True)
        deviation = (centred.square().mean(-1, keepdim=True) + self.epsilon).sqrt()
        return centred / deviation, deviation


@dataclass(frozen=True)
class TokenEnd(DemixableEnd):
    """E = LayerNorm(u + W_2 φ(W_1 h + b_1) + b_2) of one token, then logits W_o E + b_o.

    u is h, or h is LayerNorm(u): then u is known from h but for its mean, which the last LayerNorm
    takes away, and its deviation.

    Attributes:
        first: W_1, b_1 and φ.
        second: W_2, b_2.
        before: the LayerNorm that makes h; None where u is h.
        after: the last LayerNorm.
        output: the output layer.
        module: of W_1.
        norm: the module of `before`.
        token: the token's place in the sequence.
    """

    first: Layer
    second: Layer
    before: Normalisation | None
    after: Normalisation
    output: Layer
    module: nn.Linear
    norm: nn.LayerNorm | None
    token: int

    @property
    def classes(self) -> int:
        """K."""
        return len(self.output.bias)

    @property
    def largest_batch(self) -> int:
        """The largest B with at least as many equations, m − B, as unknowns, 2 B − 2."""
        units, inputs = self.first.weight.shape
        return min((units + 2) // 3, inputs + 1)

    @property
    def activation(self) -> Smooth:
        """φ."""
        assert isinstance(self.first.activation, Smooth)
        return self.first.activation

    def sums(self, inputs: Tensor, deviations: Tensor) -> Tensor:
        """Return what the last LayerNorm takes, but for a constant, shape (…, d).

        Args:
            inputs: h, shape (…, d).
            deviations: of u, shape (…, 1); they do not matter where u is h.
        """
        made = self.second.forward(self.activation.value(self.first.forward(inputs)))
        if self.before is None:
            return inputs + made
        return deviations * (inputs - self.before.bias) / self.before.weight + made

    def features(self, sums: Tensor) -> Tensor:
        """Return E of what the last LayerNorm takes, shape (…, d)."""
        return self.after.forward(sums)

    def probabilities(self, features: Tensor) -> Tensor:
        """Return class probabilities of E, (…, d) → (…, K)."""
        return self.output.forward(features).softmax(-1)

    def errors(self, sums: Tensor) -> Tensor:
        """Return δ = ∂ℓ / ∂(W_2 φ + b_2) for every label, (…, d) → (…, K, d)."""
        residuals = self.probabilities(self.features(sums))[..., None, :]
        residuals = residuals - torch.eye(self.classes).to(residuals)
        return self.after.backward(sums[..., None, :], residuals @ self.output.weight)

    def gradient(self, update: Mapping[str, Tensor]) -> Tensor:
        """Return Σ_i x_i [h_i, 1]ᵀ of an update, shape (m, d + 1)."""
        return self.first.gradient({name: double(update[name]) for name in self.first.names})

    def inputs(self, model: SharedModel, examples: Tensor) -> Tensor:
        """Return h of some inputs of the model, shape (n, d)."""
        return at_token(inputs_of(model, self.module, examples), self.token)

    def deviations(self, model: SharedModel, examples: Tensor) -> Tensor:
        """Return the deviations of u of some inputs of the model, shape (n,)."""
        if self.before is None or self.norm is None:
            return torch.ones(len(examples), dtype=torch.float64)
        u = at_token(inputs_of(model, self.norm, examples), self.token)
        return (u.var(1, correction=0) + self.before.epsilon).sqrt()


def at_token(values: Tensor, token: int) -> Tensor:
    """Return a token's values, (n, tokens, d) → (n, d); others stay as they are."""
    return values[:, token] if values.ndim == 3 else values
