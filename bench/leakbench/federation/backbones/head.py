"""The classifier that clients put on a pretrained network."""

from __future__ import annotations

from torch import nn

from leakbench.federation.shared_model import ACTIVATIONS


def head(
    features: int,
    classes: int,
    hidden: int,
    hidden_layers: int,
    activation: str,
    output: nn.Linear | None = None,
) -> list[nn.Module]:
    """Return hidden linear layers, each followed by its activation, and the output layer.

    Args:
        features: number d of deep features.
        classes: number K of main-task classes.
        hidden: units of each hidden layer.
        hidden_layers: their number; 0 for the output layer alone.
        activation: one of `ACTIVATIONS`.
        output: the output layer where there is no hidden one; a new one if None.
    """
    if not hidden_layers:
        return [nn.Linear(features, classes) if output is None else output]
    layers: list[nn.Module] = []
    for inputs in [features, *[hidden] * (hidden_layers - 1)]:
        layers += [nn.Linear(inputs, hidden), ACTIVATIONS[activation]()]
    return [*layers, nn.Linear(hidden, classes)]
