"""The ResNets of torchvision as chains."""

from __future__ import annotations

from torch import nn

from leakbench.federation.backbones.backbone import Network
from leakbench.federation.backbones.plain_layers import plain


def residual_network(network: nn.Module) -> Network:
    """Return a ResNet of torchvision as a chain of its layers, with its own output layer."""
    layers = dict(plain(network).named_children())
    output = layers.pop("fc")
    assert isinstance(output, nn.Linear)
    chain = nn.Sequential()
    for name, layer in layers.items():
        chain.add_module(name, layer)
    chain.add_module("flatten", nn.Flatten())
    return Network(chain, output.in_features, output)
