"""Forward passes that can be differentiated twice, of models with functions that PyTorch cannot.

Of the kernels for attention and of Hardsigmoid PyTorch has no second derivative. Of LayerNorm, and
of BatchNorm and InstanceNorm by the batch's own statistics, it has a wrong one, without a word,
where `torch.func.grad` is mapped over runs: the gradient by their weight is computed there from a
mean and a deviation that count as constants.

Besides, `view` copies where it cannot be a view: the engine's images have channels innermost, and
models that were written for PyTorch's default layout may view their maps as rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from leakbench.federation.backbones.plain_layers import hard_sigmoid


@contextmanager
def twice_differentiable(*, mapped: bool) -> Iterator[None]:
    """Compute attention by products, and other functions by ones with second derivatives.

    Args:
        mapped: whether under `torch.func.vmap`, where fewer functions have them.
    """
    replaced = {**VIEWS, **HARD, **(NORMALISING if mapped else {})}
    with sdpa_kernel(SDPBackend.MATH), _Replacing(replaced):
        yield


class _Replacing(TorchFunctionMode):
    """Calls other functions in place of some of PyTorch's.

    Args:
        replaced: function as `__torch_function__` is given it → what is called instead.
    """

    def __init__(self, replaced: Mapping[Any, Callable[..., Tensor]]) -> None:
        super().__init__()
        self.replaced = replaced

    def __torch_function__(self, func: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return self.replaced.get(func, func)(*args, **(kwargs or {}))


# Parameters have PyTorch's names, by which they are passed.


def _view(given: Tensor, *shape: Any, **options: Any) -> Tensor:
    if options or isinstance(shape[0], torch.dtype):
        return given.view(*shape, **options)
    return given.reshape(*shape)


def _hard_sigmoid(input: Tensor, inplace: bool = False) -> Tensor:  # noqa: A002, ARG001
    return hard_sigmoid(input)


def _layer_norm(
    input: Tensor,  # noqa: A002
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    found = _normalised(input, range(-len(normalized_shape), 0), eps)
    found = found if weight is None else found * weight
    return found if bias is None else found + bias


def _batch_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training or running_mean is not None:
        return functional.batch_norm(
            input, running_mean, running_var, weight, bias, training, momentum, eps
        )
    axes = [axis for axis in range(input.ndim) if axis != 1]
    return _by_channel(_normalised(input, axes, eps), weight, bias)


def _instance_norm(
    input: Tensor,  # noqa: A002
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats or running_mean is not None:
        return functional.instance_norm(
            input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps
        )
    return _by_channel(_normalised(input, range(2, input.ndim), eps), weight, bias)


def _normalised(given: Tensor, axes: Sequence[int], eps: float) -> Tensor:
    centred = given - given.mean(tuple(axes), keepdim=True)
    return centred * (centred.square().mean(tuple(axes), keepdim=True) + eps).rsqrt()


def _by_channel(normalised: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    shape = (-1, *[1] * (normalised.ndim - 2))
    found = normalised if weight is None else normalised * weight.view(shape)
    return found if bias is None else found + bias.view(shape)


VIEWS: Mapping[Any, Callable[..., Tensor]] = {
    Tensor.view: _view,
    torch.ops.aten.view.default: _view,  # in programs that were exported
}

HARD: Mapping[Any, Callable[..., Tensor]] = {functional.hardsigmoid: _hard_sigmoid}

NORMALISING: Mapping[Any, Callable[..., Tensor]] = {
    functional.layer_norm: _layer_norm,
    functional.batch_norm: _batch_norm,
    functional.instance_norm: _instance_norm,
}
