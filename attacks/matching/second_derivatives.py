"""Forward passes that can be differentiated twice, of models with layers that PyTorch cannot.

Of the kernels for attention and of Hardsigmoid PyTorch has no second derivative.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def twice_differentiable(model: nn.Module) -> Iterator[None]:
    """Let the model compute attention by products, and Hardsigmoid as ReLU6(x + 3) / 6."""
    layers = [layer for layer in model.modules() if type(layer) is nn.Hardsigmoid]
    for layer in layers:
        layer.forward = _hard_sigmoid  # type: ignore[method-assign, assignment]
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        for layer in layers:
            del layer.forward


def _hard_sigmoid(inputs: Tensor) -> Tensor:
    return functional.relu6(inputs + 3) / 6
