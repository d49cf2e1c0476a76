"""Frozen parts of a model: their parameters become buffers, which are in no update."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def freeze(model: nn.Module, name: str) -> None:
    """Freeze a submodule, in place.

    Its BatchNorm layers normalise by their running statistics ever after, in training mode too, and
    are none of the layers that `leakbench.federation.batch_norm` finds.

    Args:
        name: of the submodule; all of it is frozen.
    """
    module = model.get_submodule(name)
    for inner, layer in list(module.named_modules()):
        path = ".".join(part for part in (name, inner) if part)
        if isinstance(layer, _BatchNorm):
            _replace(model, path, frozen_batch_norm(layer))
            continue
        for parameter, value in list(layer.named_parameters(recurse=False)):
            delattr(layer, parameter)
            layer.register_buffer(parameter, value.detach())


def frozen_batch_norm(layer: _BatchNorm) -> nn.Module:
    """Return the layer as a fixed affine map, with the same names of tensors."""
    from torchvision.ops import FrozenBatchNorm2d

    frozen: nn.Module = FrozenBatchNorm2d(layer.num_features, eps=layer.eps)
    for name in ("weight", "bias", "running_mean", "running_var"):
        frozen.register_buffer(name, getattr(layer, name).detach())
    return frozen


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    owner, _, name = path.rpartition(".")
    setattr(model.get_submodule(owner), name, module)
