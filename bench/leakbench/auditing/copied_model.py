"""Copies of the user's model, which itself is never changed."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor, nn

WRAPPERS = ("_module.", "module.", "_orig_mod.")
"""What Opacus, DataParallel and torch.compile put before the names of a wrapped model."""


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the user's model without the wrappers of Opacus, DataParallel and torch.compile."""
    while True:
        children = dict(model.named_children())
        if len(children) != 1 or f"{(name := next(iter(children)))}." not in WRAPPERS:
            return model
        if list(model.parameters(recurse=False)) or not _is_wrapper(model):
            return model
        model = children[name]


def _is_wrapper(model: nn.Module) -> bool:
    """Whether a module is of a library's own class, not a user's with a submodule `module`."""
    return type(model).__module__.partition(".")[0] in ("torch", "opacus")


def working_copy(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in evaluation mode and single precision.

    Backward hooks, such as those of Opacus, are removed.
    """
    copied = copy.deepcopy(model, computed_tensors(model)).cpu().float().eval()
    for module in copied.modules():
        module._backward_hooks.clear()
        module._backward_pre_hooks.clear()
    return copied


def computed_tensors(model: nn.Module) -> dict[int, Any]:
    """Return copies of tensors that are kept with their graph, which deepcopy refuses.

    `torch.nn.utils.weight_norm` keeps such a weight, and computes it anew in each forward pass.
    """
    return {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
