"""Certificates under squared error, where mixtures of individuals can look like individuals."""

from __future__ import annotations

from dataclasses import replace

import torch

from leakbench.attacks.linear_layers.activations import Smooth
from leakbench.attacks.linear_layers.head import head_of
from leakbench.federation.shared_model import SharedModel
from leakbench.threat.attack import AttackResult


def with_certificates_that_hold(
    result: AttackResult, model: SharedModel, batch_size: int
) -> AttackResult:
    """Return an answer without the certificates that this loss does not allow.

    An attack certifies a feature h that makes the error x which the gradient shows. Under squared
    error x is affine in h wherever the layers are: of two individuals with one label, for whom the
    same units of all ReLU layers are active, each point on the line through both fits as well as
    they do. So certificates are kept only where a hidden layer is smooth, or all individuals of the
    batch are certified, and no two of them have both label and active units in common; never of an
    output layer alone.
    """
    certified, features, labels = result.certified, result.features, result.labels
    if not model.loss.is_affine or certified is None or not bool(certified.any()):
        return result
    hidden = head_of(model, "squared error").layers[:-1]
    if any(isinstance(layer.activation, Smooth) for layer in hidden):
        return result
    assert features is not None
    kept = torch.zeros_like(certified)
    whole = bool(certified.all()) and len(certified) == batch_size
    if not hidden or not whole or labels is None:
        return replace(result, certified=kept)
    inputs, shown = features.to(hidden[0].weight), [labels.to(hidden[0].weight)[:, None]]
    for layer in hidden:
        z = layer.forward(inputs)
        assert layer.activation is not None
        shown.append((z > 0).to(z))
        inputs = layer.activation.value(z)
    apart = len(set(map(tuple, torch.cat(shown, dim=1).tolist()))) == batch_size
    return result if apart else replace(result, certified=kept)
